"""The position of scores on the image: the pixels that a score depends on are centred on it.

Everything runs in float64, where the order of a processor's sums changes no more than the 14th digit.
"""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models import configure
from pipeline.models.backbones.alexnet import AlexNet
from pipeline.models.backbones.resnet import Depth, ResNet
from pipeline.models.backbones.vgg import VGG16
from pipeline.models.pretrained import load_pretrained
from pipeline.models.upsampling import upsample
from tests.support.networks import liven, narrow


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def mean_pool(
    x: Tensor, kernel: int, stride: int | None = None, padding: int = 0, dilation: int = 1, **options: bool
) -> Tensor:
    """Replace `F.max_pool2d` by a mean, because a maximum passes its gradient to one pixel only."""
    assert dilation == 1
    return F.avg_pool2d(x, kernel, stride, padding, ceil_mode=options.get("ceil_mode", False))


def averaging(model: nn.Module) -> Any:
    """Turn every layer but the depthwise interpolations into a mean over its window."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if module.groups == 1:
                nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model.double().eval()


def centre_of_gradient(model: Any, shape: tuple[int, int], pixels: slice, axis: int) -> float:
    """Return the mean position, along an axis, of the pixels that the scores of some pixels depend on."""
    image = torch.ones(1, 3, *shape, dtype=torch.float64, requires_grad=True)
    scores = upsample(model(image).logits, shape, stride=model.output_stride)[0, 0]
    (scores.T if axis == 0 else scores)[:, pixels].sum().backward()
    assert image.grad is not None
    weights = image.grad.sum(dim=(0, 1, 3 if axis == 0 else 2))
    assert weights[0] == weights[-1] == 0  # the border does not cut off any dependence
    return float((weights * torch.arange(len(weights))).sum() / weights.sum())


@pytest.mark.parametrize("geometry", ["plain", "paper"])
@pytest.mark.parametrize(("name", "axis"), [("fcn32s", 0), ("fcn16s", 0), ("fcn8s", 0), ("fcn8s", 1)])
def test_fcns_paths_are_centred_on_the_pixel(
    name: str, geometry: str, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crop that is off by one unit would move one of the three paths, and with it the centre, by 2 pixels or more.

    The image is one pixel thick, which saves time: the layers treat both axes in the same way.
    """
    monkeypatch.setattr(F, "max_pool2d", mean_pool)
    model = averaging(configure(name, {"width": 0.01, "geometry": geometry}).build(2))
    shape = (640, 1) if axis == 0 else (1, 640)
    for pixel in (300, 333):
        assert centre_of_gradient(model, shape, slice(pixel, pixel + 1), axis) == pytest.approx(pixel, abs=1e-6)


@pytest.mark.parametrize("name", ["unet", "unet_valid", "deep_contextual", "frrn_a", "frrn_b"])
@pytest.mark.parametrize("axis", [0, 1])
def test_networks_of_full_resolution_are_centred_on_the_pixel(
    name: str, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of whole windows of the coarsest map are centred on them, as nearest unpooling requires.

    A skip of U-Net that is cropped at its corner instead of its centre would be 4 to 64 pixels off.
    """
    monkeypatch.setattr(F, "max_pool2d", mean_pool)
    model = averaging(configure(name, {"width": 0.01}).build(2))
    size, first = (1024, 500) if name == "frrn_b" else (640, 300)
    shape = (size, 1) if axis == 0 else (1, size)
    found = centre_of_gradient(model, shape, slice(first, first + 32), axis)
    assert found == pytest.approx(first + 15.5, abs=1e-6)


@pytest.mark.parametrize(("name", "centre"), [("sliding_window_alexnet", 16), ("sliding_window_vgg16", 15.5)])
def test_a_window_is_centred_on_its_cell(name: str, centre: float) -> None:
    """Unit (1, 2) scores the window around the centre of its 32 pixels; the image is padded with the mean colour."""
    model = narrow(name).eval().double()
    image = torch.randn(1, 3, 64, 70, dtype=torch.float64)
    top, left = (round(32 * unit + centre - (model.window - 1) / 2) for unit in (1, 2))
    window = F.pad(image, (-left, left + model.window - 70, -top, top + model.window - 64))
    assert window.shape[-2:] == (model.window, model.window)
    with torch.inference_mode():
        expected = model.classifier(model.backbone.features(window))
        found = model(image).logits
    assert found.shape == (1, 5, 2, 3)
    assert expected.shape == (1, 5, 1, 1)
    torch.testing.assert_close(found[..., 1, 2], expected[..., 0, 0])


@pytest.mark.parametrize(("geometry", "first"), [("plain", 15.5), ("paper", 12.5)])
def test_each_stage_of_fcn_starts_where_the_stage_before_it_ended(geometry: str, first: float) -> None:
    """With zero skips and bilinear interpolation, a ramp of scores stays the same ramp in 32s, 16s and 8s.

    Unit 0 lies on pixel 15.5; in the paper's geometry on pixel 12.5, the centre of a field of 404 pixels that begins at
    pixel -189.
    """
    images = torch.randn(1, 3, 160, 192, dtype=torch.float64)
    before = narrow("fcn32s", geometry=geometry).eval().double()
    for name in ("fcn32s", "fcn16s", "fcn8s"):
        model: Any = configure(name, {"width": 0.125, "geometry": geometry}).build(5).eval().double()
        load_pretrained(model, before.state_dict())
        for old, new in zip(before.fc7.parameters(), model.fc7.parameters(), strict=True):
            assert torch.equal(old, new)
        assert torch.equal(before.score.weight, model.score.weight)
        seen: list[Tensor] = []
        model.score.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output) or ramp(output))
        with torch.inference_mode():
            rows, columns = upsample(model(images).logits, (160, 192), stride=model.output_stride)[0, :2]
        assert seen[0].std() > 0
        inner = slice(40, 110)
        expected = (torch.arange(192, dtype=torch.float64) - first) / 32
        torch.testing.assert_close(rows[inner, inner], expected[inner, None].expand(70, 70))
        torch.testing.assert_close(columns[inner, inner], expected[inner].expand(70, 70))
        before = model


def ramp(like: Tensor) -> Tensor:
    """Return a map of the same shape whose first two channels are the row and column numbers."""
    height, width = like.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, *(torch.zeros_like(rows) for _ in like[0, 2:])])[None].double()


# --- atrous convolution in place of strides


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("depth", [18, 50])
def test_an_atrous_resnet_contains_the_strided_map(depth: Depth, output_stride: Literal[8, 16]) -> None:
    """Also at the borders and for sizes that no stride divides, published weights compute the same at each stride."""
    coarse = liven(ResNet(depth=depth, width=0.125)).double()
    fine: Any = ResNet(depth=depth, width=0.125, output_stride=output_stride).eval().double()
    if depth == 18:
        # As in torchvision, the first block of an atrous layer has the previous rate; in a basic block that includes
        # a convolution after the stride, which then sees other pixels.
        for layer in (fine.layer3, fine.layer4):
            rate = layer[1].conv1.dilation
            layer[0].conv2.dilation = layer[0].conv2.padding = rate
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, 107, 150, dtype=torch.float64)
    step = 32 // output_stride
    with torch.inference_mode():
        torch.testing.assert_close(fine(images).layer4[..., ::step, ::step], coarse(images).layer4)


@pytest.mark.parametrize(
    ("output_stride", "size"), [(16, (96, 64)), (16, (101, 33)), (8, (96, 64)), (8, (72, 136))], ids=str
)
def test_an_atrous_vgg16_contains_the_strided_map(output_stride: Literal[8, 16], size: tuple[int, int]) -> None:
    """Also at the lower and right border, where a pooling window of two units reaches beyond the map.

    At stride 8, pool5 repeats the last unit of the finer map there. That unit is also one of the coarser map if the
    side of the coarser map is even or that of the finer map is odd.
    """
    coarse = VGG16(width=0.125).eval().double()
    fine = VGG16(width=0.125, output_stride=output_stride).eval().double()
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    step = 32 // output_stride
    with torch.inference_mode():
        torch.testing.assert_close(fine(images).pool5[..., ::step, ::step], coarse(images).pool5)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_an_atrous_alexnet_contains_the_strided_map(output_stride: Literal[8, 16]) -> None:
    """The centres of the pooling windows of three units are every second unit, beginning with the second."""
    coarse = AlexNet(width=0.125).eval().double()
    fine = AlexNet(width=0.125, output_stride=output_stride).eval().double()
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    step = 32 // output_stride
    with torch.inference_mode():
        expected, found = coarse(images), fine(images)[..., step - 1 :: step, step - 1 :: step]
    assert expected.shape == (1, 32, 6, 6)
    torch.testing.assert_close(found[..., :6, :6], expected)


def test_the_maps_before_vggs_pools() -> None:
    """The branches of Deep Contextual Networks start from the last ReLU of each stage."""
    model = VGG16(width=0.125).eval().double()
    images = torch.randn(1, 3, 45, 64, dtype=torch.float64)
    with torch.inference_mode():
        for found, end in zip(model.before_pools(images), (4, 9, 16, 23, 30), strict=True):
            torch.testing.assert_close(found, model.features[:end](images))
