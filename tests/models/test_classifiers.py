"""Classifiers with global pooling: the papers' sizes, torchvision's weights, and the maps of other implementations.

The networks run in float64, so only the maps themselves, which are float32, are rounded.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchcam.methods import CAM

from pipeline.cam.activation import class_maps
from pipeline.data.preprocessing import ClassifierInput, Preprocessing
from pipeline.models import CLASSIFIERS, configure, count_parameters
from pipeline.models.pretrained import load_pretrained
from pipeline.predict.classifier import Classifier
from pipeline.predict.device import NotFiniteError
from tests.support.networks import liven, torchvision_model

SLIM = {name: {"width": 0.125} for name in CLASSIFIERS} | {
    "wrn_28_10": {"depth": 10, "widen": 2},
    "wrn_40_4": {"depth": 10, "widen": 1},
    "wrn_16_4": {"depth": 16, "widen": 1},
    "resnet110": {"depth": 8},
}
# The parameters of torchvision's networks up to conv5, conv5_3 and inception_4e, where the paper cuts them, and the
# channels there. A 3x3 convolution to 1024 channels and the scores follow.
CUT = {"alexnet_cam": (2_469_696, 256), "vgg16_cam": (14_714_688, 512), "googlenet_cam": (3_273_920, 832)}


@pytest.mark.parametrize("name", list(CUT))
def test_the_papers_networks_have_a_convolution_of_1024_and_one_linear_layer(name: str) -> None:
    before, channels = CUT[name]
    with torch.device("meta"):
        found = count_parameters(configure(name, {}).build(1000))
    assert found == before + (9 * channels + 1) * 1024 + 1025 * 1000


def test_vgg16_with_batch_normalisation_has_two_more_parameters_a_channel() -> None:
    channels = 2 * 64 + 2 * 128 + 3 * 256 + 3 * 512 + 3 * 512
    with torch.device("meta"):
        without, with_norm = (
            count_parameters(configure("vgg16_cam", {"batch_norm": batch_norm}).build(40))
            for batch_norm in (False, True)
        )
    assert with_norm == without + 2 * channels


@pytest.mark.parametrize(("name", "expected"), [("resnet18_cam", 11_689_512), ("resnet50_cam", 25_557_032)])
def test_resnets_are_torchvisions_to_the_last_parameter(name: str, expected: int) -> None:
    with torch.device("meta"):
        assert count_parameters(configure(name, {}).build(1000)) == expected


# Figure 3 of YOLO's paper, written out: inputs, outputs and kernel of the convolutions before the average pooling.
YOLO_LAYERS = {
    "yolo_cam": [
        *((3, 64, 7), (64, 192, 3), (192, 128, 1), (128, 256, 3), (256, 256, 1), (256, 512, 3)),
        *((512, 256, 1), (256, 512, 3)) * 4,
        *((512, 512, 1), (512, 1024, 3)),
        *((1024, 512, 1), (512, 1024, 3)) * 2,
    ],
    "yolo_fast_cam": [(3, 16, 3)] + [(n, 2 * n, 3) for n in (16, 32, 64, 128, 256, 512)],
}


@pytest.mark.parametrize(("name", "layers", "side"), [("yolo_cam", 20, 7), ("yolo_fast_cam", 7, 3)])
def test_yolos_classifier_has_the_first_convolutions_of_its_paper(name: str, layers: int, side: int) -> None:
    with torch.device("meta"):
        network = configure(name, {}).build(1000).eval()
        assert network(torch.empty(1, 3, 224, 224)).features.shape == (1, 1024, side, side)
    weights = sum(inputs * outputs * k * k + outputs for inputs, outputs, k in YOLO_LAYERS[name])
    assert len(YOLO_LAYERS[name]) == layers
    assert count_parameters(network) == weights + 1025 * 1000


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("detector", ["yolo", "yolo_fast"])
@torch.no_grad()
def test_a_yolo_that_starts_from_its_classifier_computes_the_classifiers_map(detector: str, batch_norm: bool) -> None:
    options = {"width": 0.125, "batch_norm": batch_norm}
    theirs: Any = liven(configure(f"{detector}_cam", options).build(5)).eval()
    ours: Any = configure(detector, options).build(3).eval()
    report = load_pretrained(ours, theirs.state_dict())
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    images = torch.randn(2, 3, 128, 192)
    expected = theirs(images).features
    assert expected.std() > 0.01
    torch.testing.assert_close(ours.features[: len(theirs.features)](images), expected)


@pytest.mark.parametrize(("name", "side"), [("alexnet_cam", 13), ("vgg16_cam", 14), ("googlenet_cam", 14)])
def test_maps_have_the_papers_size(name: str, side: int) -> None:
    with torch.device("meta"):
        output = configure(name, {}).build(10).eval()(torch.empty(1, 3, 224, 224))
    assert output.features.shape == (1, 1024, side, side)


def build(name: str, classes: int = 5, **options: object) -> Any:
    """Return a narrow classifier with random weights in float64 that also takes float32 images."""
    torch.manual_seed(0)
    network = liven(configure(name, SLIM[name] | options).build(classes)).double()
    nn.init.normal_(network.fc.weight)
    nn.init.normal_(network.fc.bias)
    network.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
    return network


def assert_maps_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare float32 maps, sums over up to 1024 channels of either sign, relative to the largest value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", list(CLASSIFIERS))
@pytest.mark.parametrize("pooling", ["gap", "gmp"])
@torch.no_grad()
def test_a_score_is_its_map_pooled(name: str, pooling: str) -> None:
    network = build(name, pooling=pooling)
    output = network(torch.randn(2, 3, 96, 80))
    stride = network.output_stride
    assert all(abs(n - size / stride) <= 1 for n, size in zip(output.features.shape[2:], (96, 80), strict=True))
    if pooling == "gap":
        maps = class_maps(output.features[1].numpy(), network.fc.weight.numpy(), range(5))
        assert_maps_close(maps.mean(axis=(1, 2)), (output.logits[1] - network.fc.bias).numpy())
    else:
        strongest = output.features.flatten(2).max(dim=2).values
        torch.testing.assert_close(output.logits, network.fc(strongest))


@pytest.mark.parametrize("name", ["vgg16", "googlenet", "alexnet", "resnet18"])
@torch.no_grad()
def test_torchvisions_weights_give_torchvisions_features(name: str) -> None:
    torch.manual_seed(0)
    theirs = torchvision_model(name)
    network: Any = configure(f"{name}_cam", {"output_stride": 32}).build(10).eval().double()
    load_pretrained(network, theirs.state_dict())
    layer = {"vgg16": "features.29", "googlenet": "inception4e", "alexnet": "features.11", "resnet18": "layer4"}[name]
    seen: list[torch.Tensor] = []
    theirs.get_submodule(layer).register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = torch.randn(1, 3, 64, 80, dtype=torch.float64)
    theirs(images)
    assert seen[0].std() > 0.01
    torch.testing.assert_close(network._map(images), seen[0])


def classifier(network: nn.Module, *, multi_label: bool = False, size: int = 64, **options: Any) -> Classifier:
    return Classifier(
        network,
        classifier_input=ClassifierInput(size=(size, size), multi_label=multi_label),
        preprocessing=Preprocessing(),
        device=torch.device("cpu"),
        **options,
    )


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    network = build("resnet18_cam")
    expected = classifier(network)(photographs(5))
    forward, sizes = network.forward, []

    def small(images: torch.Tensor) -> Any:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return forward(images)

    network.forward = small
    for one, other in zip(classifier(network)(photographs(5)), expected, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-4, atol=1e-5)
    assert sizes == [5, 3, 2, 2, 1]


def photographs(count: int, size: int = 64) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["resnet18_cam", "vgg16_cam", "wrn_16_4"])
def test_maps_are_those_of_a_forward_hook_and_of_torch_cam(name: str) -> None:
    network = build(name)
    ours = classifier(network)
    pixels = photographs(2)
    answers = ours(pixels)

    layer = {"resnet18_cam": "backbone.layer4", "vgg16_cam": "added", "wrn_16_4": "norm"}[name]
    seen: list[torch.Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda module, inputs, output: seen.append(output))
    mean, std = torch.tensor(Preprocessing().mean), torch.tensor(Preprocessing().std)
    batch = ((torch.from_numpy(np.stack(pixels)) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = network(batch).logits
    hook.remove()
    by_hand = torch.einsum("bchw,kc->bkhw", seen[0], network.fc.weight.detach())
    for i, answer in enumerate(answers):
        assert_maps_close(answer.maps([3, 1]), by_hand[i, [3, 1]].numpy())
        np.testing.assert_allclose(answer.probabilities, logits[i].softmax(0), rtol=0, atol=1e-4)

    class Logits(nn.Module):
        """Adapts the network to torch-cam, which expects a tensor as output."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images).logits

    with CAM(Logits(), f"network.{layer}", "network.fc", input_shape=(3, 64, 64)) as extractor, torch.no_grad():
        network(batch)
        theirs = extractor([3, 1], normalized=False)[0].numpy()
    # torch-cam sets negative values to 0 and computes one class per image.
    assert_maps_close(answers[0].maps([3])[0].clip(0), theirs[0].clip(0))
    assert_maps_close(answers[1].maps([1])[0].clip(0), theirs[1].clip(0))


def test_results_at_scales_and_mirrored_are_averaged() -> None:
    network = build("resnet18_cam")
    pixels = photographs(1)
    (plain,) = classifier(network)(pixels)
    (mirrored,) = classifier(network)([np.ascontiguousarray(pixels[0][:, ::-1])])
    (both,) = classifier(network, flip=True)(pixels)
    assert_maps_close(both.logits, (plain.logits + mirrored.logits) / 2)
    expected = (plain.maps([2]) + mirrored.maps([2])[..., ::-1]) / 2
    assert_maps_close(both.maps([2]), expected)
    (scales,) = classifier(network, scales=(1.0, 2.0), flip=True)(pixels)
    assert scales.maps([0, 1]).shape == (2, 4, 4)  # the size of the features at the first scale
    assert len(scales.features) == 4


def test_an_image_whose_scores_are_not_finite_is_refused() -> None:
    network = build("resnet18_cam")
    nn.init.constant_(network.fc.bias, float("nan"))
    with pytest.raises(NotFiniteError):
        classifier(network)(photographs(1))


def test_several_classes_at_once_have_probabilities_of_their_own() -> None:
    network = build("resnet18_cam", classes=3)
    (single,) = classifier(network)(photographs(1))
    (several,) = classifier(network, multi_label=True)(photographs(1))
    assert single.probabilities.sum() == pytest.approx(1)
    np.testing.assert_allclose(several.probabilities, 1 / (1 + np.exp(-several.logits)), rtol=1e-5)
