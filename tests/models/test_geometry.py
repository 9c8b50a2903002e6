"""Where scores lie on the image: the pixels that a score follows are centred on its place."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models import configure
from pipeline.models.backbones.alexnet import AlexNet
from pipeline.models.backbones.resnet import ResNet
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
    """In place of a maximum, which sends its gradient to one pixel only."""
    assert dilation == 1
    return F.avg_pool2d(x, kernel, stride, padding, ceil_mode=options.get("ceil_mode", False))


def averaging(model: nn.Module) -> nn.Module:
    """Every layer a mean of its window, save interpolations by channel, and nothing else."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            if module.groups == 1:
                nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model.double().eval()


def centre_of_gradient(model: nn.Module, shape: tuple[int, int], pixels: slice, axis: int) -> float:
    """The mean place, along an axis, of the pixels that the scores of some pixels follow."""
    image = torch.ones(1, 3, *shape, dtype=torch.float64, requires_grad=True)
    scores = upsample(model(image).logits, shape, stride=model.output_stride)[0, 0]
    (scores.T if axis == 0 else scores)[:, pixels].sum().backward()
    weights = image.grad.sum(dim=(0, 1, 3 if axis == 0 else 2))
    assert weights[0] == weights[-1] == 0  # nothing is cut off
    return float((weights * torch.arange(len(weights))).sum() / weights.sum())


@pytest.mark.parametrize("geometry", ["plain", "paper"])
@pytest.mark.parametrize("name", ["fcn32s", "fcn16s", "fcn8s"])
@pytest.mark.parametrize("axis", [0, 1])
def test_fcns_paths_are_centred_on_the_pixel(
    name: str, geometry: str, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crop that is a unit off would move one of the three paths, and with it the centre, by 2 pixels or more.

    The image is one pixel thick: the layers are the same along both axes, and the other one costs nothing then."""
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
    """Over whole windows of the coarsest map: nearest unpooling puts a window's pixels on its centre. A skip of U-Net
    that is cropped at its corner, not in its middle, would be 4 to 64 pixels off."""
    monkeypatch.setattr(F, "max_pool2d", mean_pool)
    model = averaging(configure(name, {"width": 0.01}).build(2))
    size, first = (1024, 500) if name == "frrn_b" else (640, 300)
    shape = (size, 1) if axis == 0 else (1, size)
    found = centre_of_gradient(model, shape, slice(first, first + 32), axis)
    assert found == pytest.approx(first + 15.5, abs=1e-6)


@pytest.mark.parametrize(("name", "centre"), [("sliding_window_alexnet", 16), ("sliding_window_vgg16", 15.5)])
def test_a_window_is_centred_on_its_cell(name: str, centre: float) -> None:
    """Unit (1, 2) is the classifier's score of the window around the middle of the 32 pixels it stands for; beyond
    the image is the mean colour."""
    model = narrow(name).eval()
    image = torch.randn(1, 3, 64, 70)
    top, left = (round(32 * unit + centre - (model.window - 1) / 2) for unit in (1, 2))
    window = F.pad(image, (-left, left + model.window - 70, -top, top + model.window - 64))
    assert window.shape[-2:] == (model.window, model.window)
    with torch.inference_mode():
        expected = model.classifier(model.backbone.features(window))
        found = model(image).logits
    assert found.shape == (1, 5, 2, 3)
    assert expected.shape == (1, 5, 1, 1)
    torch.testing.assert_close(found[..., 1, 2], expected[..., 0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("geometry", "first"), [("plain", 15.5), ("paper", 12.5)])
def test_each_stage_of_fcn_starts_where_the_stage_before_it_ended(geometry: str, first: float) -> None:
    """Zero skips and bilinear interpolation: on a ramp of scores, 16s and then 8s give 32s's map, pixel for pixel.

    Unit 0 lies on pixel 15.5; in the paper's net on 12.5, the middle of a field of 404 pixels that begins at -189."""
    images = torch.randn(1, 3, 160, 192)
    before = narrow("fcn32s", geometry=geometry).eval()
    for name in ("fcn32s", "fcn16s", "fcn8s"):
        model = configure(name, {"width": 0.125, "geometry": geometry}).build(5).eval()
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
        expected = (torch.arange(192) - first) / 32
        torch.testing.assert_close(rows[inner, inner], expected[inner, None].expand(70, 70), rtol=0, atol=1e-4)
        torch.testing.assert_close(columns[inner, inner], expected[inner].expand(70, 70), rtol=0, atol=1e-4)
        before = model


def ramp(like: Tensor) -> Tensor:
    """A map of the same shape whose first channels are row and column numbers."""
    height, width = like.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, *(torch.zeros_like(rows) for _ in like[0, 2:])])[None].float()


# --- holes in place of strides


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("depth", [50, 101])
def test_an_atrous_resnet_holds_the_strided_map_everywhere(depth: int, output_stride: int) -> None:
    """Also at the borders and for sizes that no stride divides: published weights mean the same at each stride."""
    coarse = liven(ResNet(depth=depth, width=0.125))
    fine = ResNet(depth=depth, width=0.125, output_stride=output_stride).eval()
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, 107, 150)
    step = 32 // output_stride
    with torch.inference_mode():
        expected, found = coarse(images).layer4, fine(images).layer4[..., ::step, ::step]
    assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize(
    ("output_stride", "size"), [(16, (96, 64)), (16, (101, 33)), (8, (96, 64)), (8, (72, 136))], ids=str
)
def test_an_atrous_vgg16_holds_the_strided_map_everywhere(output_stride: int, size: tuple[int, int]) -> None:
    """At the lower and right border too, where a pooling window of two units looks beyond the map. At stride 8 pool5
    repeats the last unit of the finer map there, which is one of the coarser map if that has an even number or the
    finer an odd one."""
    coarse = VGG16(width=0.125).eval()
    fine = VGG16(width=0.125, output_stride=output_stride).eval()
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, *size)
    step = 32 // output_stride
    with torch.inference_mode():
        torch.testing.assert_close(fine(images).pool5[..., ::step, ::step], coarse(images).pool5)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_an_atrous_alexnet_holds_the_strided_map_everywhere(output_stride: int) -> None:
    """Poolings of three units have their middle at every second unit, from the second; 224 pixels as published."""
    coarse, fine = AlexNet(width=0.125).eval(), AlexNet(width=0.125, output_stride=output_stride).eval()
    fine.load_state_dict(coarse.state_dict())
    images = torch.randn(1, 3, 224, 224)
    step = 32 // output_stride
    with torch.inference_mode():
        expected, found = coarse(images), fine(images)[..., step - 1 :: step, step - 1 :: step]
    assert expected.shape == (1, 32, 6, 6)
    torch.testing.assert_close(found[..., :6, :6], expected)


def test_the_maps_before_vggs_pools() -> None:
    """What Deep Contextual Networks branch from: after each stage's last ReLU."""
    model = VGG16(width=0.125).eval()
    images = torch.randn(1, 3, 45, 64)
    with torch.inference_mode():
        for found, end in zip(model.before_pools(images), (4, 9, 16, 23, 30), strict=True):
            torch.testing.assert_close(found, model.features[:end](images))
