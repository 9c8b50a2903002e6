"""The defining property of each paper's network, against its formula or a second computation.

Computations that must agree run in float64, where the order of a processor's sums changes no more than the 14th digit.
"""

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models import configure
from pipeline.models.convolutionalize import convolutionalize, without_padding
from pipeline.models.fcn import FCNConfig
from pipeline.models.frrn import FRRU
from pipeline.models.layers import kaiming
from pipeline.models.multi_scale import MultiScale
from pipeline.models.pspnet import PyramidPooling
from pipeline.models.receptive_field import receptive_field
from pipeline.models.unet import UNetConfig, overlap_tile
from pipeline.models.upsampling import bilinear_kernel, upsample
from tests.support.networks import liven, narrow


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> Tensor:
    """Return a random float64 tensor."""
    return torch.randn(*shape, dtype=torch.float64)


# --- FCN's own geometry


def caffe_interpolation(x: Tensor, factor: int) -> Tensor:
    """Interpolate each channel by a transposed convolution without padding: n units become factor · (n + 1) pixels."""
    kernel = bilinear_kernel(factor)[None, None].to(x.dtype)
    maps = [F.conv_transpose2d(x[:, i : i + 1], kernel, stride=factor) for i in range(x.shape[1])]
    return torch.cat(maps, dim=1)


@pytest.mark.parametrize("size", [(500 // 4, 375 // 4), (1, 1)])
def test_fcn8s_in_the_papers_geometry(size: tuple[int, int]) -> None:
    """The scores equal those of separate layers with the crop offsets of the released network: 5, 9 and 31."""
    model = narrow("fcn8s", geometry="paper").eval().double()
    images = randn(1, 3, *size)
    layers = list(model.backbone.features)
    x, pools = F.conv2d(images, layers[0].weight, layers[0].bias, padding=100), []
    for layer in layers[1:]:
        x = F.max_pool2d(x, 2, 2, ceil_mode=True) if isinstance(layer, nn.MaxPool2d) else layer(x)
        pools += [x] if isinstance(layer, nn.MaxPool2d) else []
    with torch.inference_mode():
        x = F.relu(F.conv2d(pools[4], model.fc6.weight, model.fc6.bias))
        x = model.score(F.relu(model.fc7(x)))
        x = caffe_interpolation(x, 2)
        x = x + model.score_pool4(pools[3])[..., 5 : 5 + x.shape[-2], 5 : 5 + x.shape[-1]]
        x = caffe_interpolation(x, 2)
        x = x + model.score_pool3(pools[2])[..., 9 : 9 + x.shape[-2], 9 : 9 + x.shape[-1]]
        expected = caffe_interpolation(x, 8)[..., 31 : 31 + size[0], 31 : 31 + size[1]]
        found = model(images).logits
    assert expected.shape == (1, 5, *size)
    assert expected.std() > 1e-4
    torch.testing.assert_close(found, expected)


def test_fcn_at_once_scales_its_skips() -> None:
    plain, scaled = (FCNConfig(width=0.125, at_once=at_once).build(3).eval().double() for at_once in (False, True))
    scaled.load_state_dict(plain.state_dict())
    images = randn(1, 3, 64, 64)
    for layer, factor in (("score_pool4", 0.01), ("score_pool3", 0.0001)):
        for model in (plain, scaled):
            nn.init.ones_(getattr(model, layer).weight)
        with torch.inference_mode():
            torch.testing.assert_close(scaled(images).logits / factor, plain(images).logits)
        for model in (plain, scaled):
            nn.init.zeros_(getattr(model, layer).weight)


# --- a classifier as a dense network


def small_classifier(name: str) -> tuple[nn.Module, nn.Sequential, int, int]:
    """Build torchvision's AlexNet or VGG16 with an eighth of the channels.

    Returns:
        Features and classifier in float64, the channels of the features, and the units per side of a window.
    """
    with torch.device("meta"):
        features = nn.Sequential(*torchvision.models.get_model(name).features)
    for i, layer in enumerate(features):
        if isinstance(layer, nn.Conv2d):
            inputs = layer.in_channels if layer.in_channels == 3 else layer.in_channels // 8
            window: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding}
            features[i] = nn.Conv2d(inputs, layer.out_channels // 8, layer.kernel_size[0], **window)
    channels, side = (64, 7) if name == "vgg16" else (32, 6)
    head = nn.Sequential(
        nn.Linear(channels * side**2, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 7)
    )
    kaiming((*features, *head), mode="fan_in")  # keeps the spread of the scores through the depth
    return features.eval().double(), head.eval().double(), channels, side


@pytest.mark.parametrize(("name", "window"), [("alexnet", 355), ("vgg16", 404)])
def test_a_convolutionalized_classifier_is_the_classifier_slid_over_the_image(name: str, window: int) -> None:
    features, head, channels, side = small_classifier(name)
    valid = without_padding(features)
    assert receptive_field([valid, nn.Conv2d(1, 1, side)]) == window
    dense = convolutionalize(valid, head, channels=channels).eval()
    image = randn(1, 3, window + 2 * 32, window + 32 + 5)
    with torch.inference_mode():
        scores = dense(image)
        slid = torch.stack(
            [
                torch.stack(
                    [head(valid(image[..., y : y + window, x : x + window]).flatten(1))[0] for x in (0, 32)], dim=-1
                )
                for y in (0, 32, 64)
            ],
            dim=-2,
        )
    assert scores.shape == (1, 7, 3, 2)
    assert slid.std(dim=(1, 2)).min() > 0.01
    torch.testing.assert_close(scores[0], slid)


def test_with_padding_only_a_single_window_agrees() -> None:
    """A padded convolution sees zeros beyond a cut-out window, but the image itself in the dense network."""
    features, head, channels, _ = small_classifier("alexnet")
    dense = convolutionalize(features, head, channels=channels).eval()
    image = randn(1, 3, 224, 256)
    with torch.inference_mode():
        alone = head(features(image[..., :224]).flatten(1))
        torch.testing.assert_close(dense(image[..., :224])[..., 0, 0], alone)
        whole = dense(image)[..., 0, 0]
    assert (whole - alone).norm() > 0.01 * alone.norm()


def test_convolutionalize_refuses_a_map_that_is_not_square() -> None:
    with pytest.raises(ValueError, match="do not form a square map of 5 channels"):
        convolutionalize(nn.Identity(), nn.Sequential(nn.Linear(30, 2)), channels=5)


def test_the_sliding_window_model_is_its_dense_form() -> None:
    sliding = narrow("sliding_window_alexnet").eval().double()
    dense = configure("sliding_window_alexnet", {"width": 0.125, "dense": True}).build(5).eval().double()
    dense.load_state_dict(sliding.state_dict())
    images = randn(2, 3, 70, 33)
    with torch.inference_mode():
        torch.testing.assert_close(sliding(images).logits, dense(images).logits)


# --- DeepLab


def test_multi_scale_takes_the_largest_score_of_three_scales() -> None:
    network = narrow("deeplabv2_vgg16").eval().double()
    images = randn(1, 3, 64, 48)
    with torch.inference_mode():
        maps = []
        for size in ((64, 48), (48, 36), (32, 24)):
            resized = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
            maps.append(F.interpolate(network(resized).logits, size=(8, 6), mode="bilinear", align_corners=False))
        found = MultiScale(network)(images)
    torch.testing.assert_close(found.logits, torch.stack(maps).amax(dim=0))
    auxiliary = MultiScale(network).train()(images).auxiliary
    assert [tuple(m.shape[-2:]) for m in auxiliary] == [(8, 6)] * 3


def test_deeplab_covers_the_same_image_at_either_stride() -> None:
    for stride in (8, 16):
        model = narrow("deeplabv3_resnet18", output_stride=stride)
        convolutions = [branch[0] for branch in model.classifier[0].convs[1:4]]
        assert [c.dilation[0] * stride for c in convolutions] == [96, 192, 288]
        assert [c.padding for c in convolutions] == [c.dilation for c in convolutions]


def test_multi_grid_multiplies_the_rates_of_layer4() -> None:
    model = narrow("deeplabv3_resnet50", multi_grid=True, output_stride=16)
    assert [block.conv2.dilation[0] for block in model.backbone.layer4] == [2, 4, 8]


# --- U-Net


def test_unet_maps_572_to_388() -> None:
    with torch.device("meta"):
        scores = UNetConfig(variant="valid").build(2).score_padded(torch.empty(1, 3, 572, 572))
    assert scores.shape == (1, 2, 388, 388)


@pytest.mark.parametrize(("size", "tile"), [((150, 90), 68), ((20, 130), 52), ((68, 68), 68), ((7, 1), 20)])
def test_tiles_fit_together_without_a_seam(size: tuple[int, int], tile: int) -> None:
    network = narrow("unet_valid").eval().double()
    images = randn(1, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(overlap_tile(network, images, tile=tile), network(images).logits)


def test_other_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="16 n \\+ 4"):
        overlap_tile(narrow("unet_valid"), torch.randn(1, 3, 64, 64), tile=64)


# --- FRRN, PSPNet, Deep Contextual, ensemble, residual networks


def test_frru_is_the_papers_formula() -> None:
    unit = liven(FRRU(6, 8, 4, 2)).double()
    y, z = randn(2, 6, 5, 6), randn(2, 4, 10, 12)
    conv1, norm1, _, conv2, norm2, _ = unit.body
    with torch.inference_mode():
        inner = F.relu(norm1(conv1(torch.cat([y, F.max_pool2d(z, 2, 2)], dim=1))))
        new_y = F.relu(norm2(conv2(inner)))
        added = unit.residual(new_y).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        found_y, found_z = unit(y, z)
    torch.testing.assert_close(found_y, new_y)
    torch.testing.assert_close(found_z, z + added)


def test_frrns_residual_stream_passes_untouched_where_units_add_nothing() -> None:
    model = liven(narrow("frrn_a")).double()
    for unit in model.units:
        nn.init.zeros_(unit.residual.weight)
        nn.init.zeros_(unit.residual.bias)
    seen: list[Tensor] = []
    model.tail.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    images = randn(1, 3, 32, 48)
    with torch.inference_mode():
        model(images)
        z = model.split(model.head(images))
    torch.testing.assert_close(seen[0][:, -z.shape[1] :], z)


def test_pyramid_pooling_sees_means_of_four_grids() -> None:
    pooling = liven(PyramidPooling(8)).double()
    constant = torch.full((1, 8, 12, 12), 0.7, dtype=torch.float64)
    with torch.inference_mode():
        out = pooling(constant)
    assert out.shape == (1, 16, 12, 12)
    assert torch.equal(out[:, :8], constant)
    torch.testing.assert_close(out, out[..., :1, :1].expand_as(out))
    assert [branch[0].output_size for branch in pooling.branches] == [1, 2, 3, 6]


def test_deep_contextual_networks_sum_their_branches() -> None:
    model = narrow("deep_contextual").train()
    output = model(torch.randn(1, 3, 37, 50))
    assert [tuple(a.shape[-2:]) for a in output.auxiliary] == [(37, 50)] * 3
    torch.testing.assert_close(output.logits, sum(output.auxiliary))


@pytest.mark.parametrize("fusion", ["mean", "product"])
def test_the_ensemble_joins_probabilities_or_scores(fusion: str) -> None:
    model = narrow("deconvnet_fcn8s", fusion=fusion).eval().double()
    images = randn(1, 3, 224, 224)  # not padded, see `random_images` in test_architectures.py
    with torch.inference_mode():
        a = model.deconvnet(images).logits
        b = upsample(model.fcn(images).logits, (224, 224), stride=8)
        found = model(images).logits
    if fusion == "mean":
        torch.testing.assert_close(found.softmax(1), (a.softmax(1) + b.softmax(1)) / 2)
    else:
        torch.testing.assert_close(found, a.clamp(min=0) * b.clamp(min=0))


def test_only_the_blocks_that_change_resolution_or_width_have_a_projection() -> None:
    model: Any = configure("resnet110", {}).build(10)
    assert [[block.projection is not None for block in group].count(True) for group in model.groups] == [0, 1, 1]
    assert [len(group) for group in model.groups] == [18, 18, 18]
    wide = configure("wrn_28_10", {"depth": 10, "widen": 2}).build(4).eval()
    assert wide(torch.randn(1, 3, 32, 24)).features.shape == (1, 128, 8, 6)
    assert wide(torch.randn(2, 3, 32, 32)).logits.shape == (2, 4)
    with pytest.raises(ValueError, match="6 n \\+ 4"):
        configure("wrn_28_10", {"depth": 29})


# --- receptive fields


def seen_by_gradient(network: nn.Module, size: int) -> int:
    """Return the number of pixels in a column that the middle unit of a chain of layers depends on.

    The image is narrow, which saves time: the layers treat both axes in the same way. Its 65 columns are enough for
    the 4x4 kernel of rate 8 at output stride 8, which has no tap at its centre.
    """
    network = network.double().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    image = torch.ones(1, 3, size, 65, dtype=torch.float64, requires_grad=True)
    scores = network(image)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    assert image.grad is not None
    rows = np.flatnonzero(image.grad.abs().sum(dim=(0, 1, 3)).numpy() > 0)
    assert rows[0] > 0
    assert rows[-1] < size - 1
    return int(rows[-1] - rows[0] + 1)


def averaged(layers: list[nn.Module]) -> nn.Sequential:
    """Replace maxima by means, because a maximum passes its gradient to one unit only."""
    chain = [leaf for layer in layers for leaf in layer.modules() if not list(leaf.children())]
    for i, layer in enumerate(chain):
        if isinstance(layer, nn.MaxPool2d):
            chain[i] = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
        if isinstance(layer, nn.BatchNorm2d | nn.Dropout | nn.Dropout2d):
            chain[i] = nn.Identity()
    return nn.Sequential(*chain)


def resnet_path(backbone: Any) -> list[nn.Module]:
    """Return the convolutions and pools of the stem and the blocks, without the shortcuts."""
    blocks = [b for layer in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4) for b in layer]
    return [backbone.conv1, backbone.maxpool, *(c for b in blocks for c in (b.conv1, b.conv2))]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("fcn8s pool5", 404),
        ("fcn8s pool4", 100),
        ("fcn8s pool3", 44),
        ("deeplabv1 7x7", 419),
        ("deeplabv1 4x4", 323),
        ("deeplabv1 4x4_rate8", 419),
        ("deeplabv1 large_fov", 419),
        ("deeplabv2 6", 323),
        ("deeplabv2 12", 419),
        ("deeplabv2 18", 515),
        ("deeplabv2 24", 611),
        ("deeplabv3 1", 627),
        ("deeplabv3 2", 819),
        ("deeplabv3 3", 1011),
    ],
)
def test_receptive_fields_are_what_gradients_reach(case: str, expected: int) -> None:
    model, _, head = case.partition(" ")
    if model == "fcn8s":
        fcn = narrow("fcn8s").eval()
        end = {"pool5": 31, "pool4": 24, "pool3": 17}[head]
        layers = [*fcn.backbone.features[:end], *([fcn.fc6, fcn.fc7, fcn.score] if head == "pool5" else [])]
    elif model == "deeplabv1":
        v1 = narrow("deeplabv1_7x7", head=head)
        layers = [*v1.backbone.features, v1.fc6, v1.fc7, v1.score]
    elif model == "deeplabv2":
        v2 = narrow("deeplabv2_vgg16")
        layers = [*v2.backbone.features, *v2.aspp[(6, 12, 18, 24).index(int(head))]]
    else:
        v3 = narrow("deeplabv3_resnet18", output_stride=16)
        layers = [*resnet_path(v3.backbone), v3.classifier[0].convs[int(head)][0], v3.classifier[1]]
    assert receptive_field(layers) == expected
    assert seen_by_gradient(averaged(layers), expected + 80) == expected
