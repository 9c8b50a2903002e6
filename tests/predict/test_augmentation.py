"""Test-time augmentation: the average over copies, its positions, and its combination with windows and boxes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.data.preprocessing import Preprocessing, TTAOptions, Windows
from pipeline.models.layers import SegmentationOutput
from pipeline.predict.augmentation import averaged_scores
from pipeline.predict.device import NotFiniteError
from pipeline.predict.segmenter import Prediction, Segmenter
from tests.support.networks import narrow

PLAIN = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))


class Means(nn.Module):
    """A network without parameters: scores are the channels of an image, averaged over each unit."""

    def __init__(self, stride: int):
        super().__init__()
        self.output_stride = stride

    def forward(self, images: Tensor) -> SegmentationOutput:
        height, width = images.shape[2:]
        padded = F.pad(images, (0, -width % self.output_stride, 0, -height % self.output_stride), mode="replicate")
        return SegmentationOutput(F.avg_pool2d(padded, self.output_stride))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def segment(model: nn.Module, pixels: np.ndarray, **options: Any) -> Prediction:
    (found,) = Segmenter(model, preprocessing=PLAIN, device=torch.device("cpu"), keep_scores=True, **options)([pixels])
    return found


@torch.inference_mode()
def probabilities(model: Any, images: Tensor) -> Tensor:
    return model(images).logits.softmax(dim=1)


def average(model: nn.Module, images: Tensor, stride: int, **options: Any) -> Tensor:
    with torch.inference_mode():
        scores = averaged_scores(lambda copies: model(copies).logits, images, TTAOptions(**options), stride=stride)
    return scores.exp()


def test_without_options_the_result_is_that_of_the_image_alone_bit_for_bit() -> None:
    model, pixels = narrow("deeplabv3_resnet18").eval(), noise(61, 83)
    alone, found = segment(model, pixels), segment(model, pixels, tta=TTAOptions(scales=(1,), flip=False))
    np.testing.assert_array_equal(found.labels, alone.labels)
    np.testing.assert_array_equal(found.scores, alone.scores)
    assert found.confidence == alone.confidence
    assert found.entropy == alone.entropy


def test_flipping_averages_the_probabilities_with_those_of_the_mirror_image() -> None:
    model = narrow("unet", num_classes=4).eval()
    images = torch.rand(2, 3, 48, 61)
    expected = (probabilities(model, images) + probabilities(model, images.flip(3)).flip(3)) / 2
    torch.testing.assert_close(average(model, images, 1, flip=True), expected, atol=1e-5, rtol=0)


def test_scales_average_the_probabilities_of_resized_copies() -> None:
    """All sizes are divided by the stride, so `interpolate` meets the same positions."""
    model = narrow("deeplabv3_resnet18", num_classes=4, output_stride=8).eval()
    images = torch.rand(2, 3, 64, 96)
    expected = probabilities(model, images)
    for size, smaller in (((32, 48), True), ((96, 144), False)):
        copies = F.interpolate(images, size, mode="bilinear", antialias=smaller)
        expected = expected + F.interpolate(probabilities(model, copies), (8, 12), mode="bilinear")
    found = average(model, images, 8, scales=(0.5, 1, 1.5))
    torch.testing.assert_close(found, expected / 3, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stride", [1, 8])
@pytest.mark.parametrize("size", [(96, 128), (97, 125), (50, 203)])
@pytest.mark.parametrize("options", [{"flip": True}, {"scales": (0.7,)}, {"scales": (1.3, 2), "flip": True}])
def test_copies_are_averaged_where_they_show_the_same_place(
    stride: int, size: tuple[int, int], options: dict[str, Any]
) -> None:
    """The scores rise by 1/100 per pixel; a shift by a quarter of a pixel exceeds the tolerance."""
    y, x = torch.meshgrid(*(torch.arange(n) / 100 for n in size), indexing="ij")
    images = torch.stack([x, y, 0 * x])[None]
    expected = probabilities(Means(stride), images)
    found = average(Means(stride), images, stride, **options)
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(found[inside].log(), expected[inside].log(), atol=2.5e-3, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (31, 33)])
def test_images_of_any_size_are_augmented(size: tuple[int, int]) -> None:
    model = narrow("fcn32s").eval()
    found = segment(model, noise(*size), tta=TTAOptions(scales=(0.25, 1, 1.7), flip=True))
    assert found.labels.shape == size
    assert found.scores is not None
    assert found.scores.shape == (5, *(-(-side // 32) for side in size))
    assert 1 / 5 - 1e-6 <= found.confidence <= 1 + 1e-6


def test_confidence_entropy_and_kept_scores_are_those_of_the_average() -> None:
    model, pixels = narrow("deeplabv3_resnet18").eval(), noise(64, 64)
    found = segment(model, pixels, tta=TTAOptions(flip=True))
    p = average(model, torch.from_numpy(pixels / 255).float().permute(2, 0, 1)[None], model.output_stride, flip=True)
    assert found.confidence == pytest.approx(float(p.amax(dim=1).mean()), abs=1e-5)
    assert found.entropy == pytest.approx(float(-(p * p.log()).sum(dim=1).mean()), abs=1e-5)
    expected = (p.log() - p.log().amax(dim=1, keepdim=True))[0].numpy()
    assert found.scores is not None
    np.testing.assert_allclose(found.scores, expected, atol=5e-3)


def test_windows_are_augmented_as_the_whole_image_is() -> None:
    """Every window and the image have the same ratio of sizes, and the network sees nothing but the unit."""
    pixels = np.kron(noise(40, 56)[..., 0], np.ones((8, 8)))[..., None] * [1, 0.5, 0] + [0, 0, 60]
    options = {"tta": TTAOptions(scales=(0.5, 1, 1.5), flip=True)}
    whole = segment(Means(8), pixels.astype(np.uint8), **options)
    found = segment(Means(8), pixels.astype(np.uint8), windows=Windows(above=1, size=128, overlap=64), **options)
    assert len(np.unique(whole.labels)) > 1
    assert (found.labels != whole.labels).mean() < 1e-3
    assert whole.scores is not None
    assert found.scores is not None
    np.testing.assert_allclose(found.scores, whole.scores, atol=2e-3)
    assert found.confidence == pytest.approx(whole.confidence, abs=1e-5)


def test_copies_and_windows_work_in_half_precision() -> None:
    model, pixels = narrow("deeplabv3_resnet18", output_stride=8).eval(), noise(150, 100)
    options = {"tta": TTAOptions(scales=(0.5, 1), flip=True), "windows": Windows(above=1, size=64, overlap=32)}
    exact, rough = (segment(model, pixels, dtype=dtype, **options) for dtype in ("float32", "bfloat16"))
    assert rough.confidence == pytest.approx(exact.confidence, abs=0.02)
    assert (rough.labels == exact.labels).mean() > 0.9


def test_the_largest_copy_decides_whether_an_image_is_segmented_in_windows() -> None:
    sizes = []

    class Recording(Means):
        def forward(self, images: Tensor) -> SegmentationOutput:
            sizes.append(images.shape[2] * images.shape[3])
            return super().forward(images)

    windows = Windows(above=200 * 200, size=64, overlap=32)
    segment(Recording(4), noise(100, 100), windows=windows, tta=TTAOptions(scales=(2,)))
    assert sizes == [200 * 200]
    segment(Recording(4), noise(100, 101), windows=windows, tta=TTAOptions(scales=(0.5, 2)))
    assert max(sizes[1:]) == 128 * 128


def test_confident_scores_stay_finite() -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[..., 1] = 255
    (found,) = Segmenter(
        Means(4),
        preprocessing=Preprocessing(mean=(0, 0, 0), std=(1e-3, 1e-3, 1e-3)),
        device=torch.device("cpu"),
        tta=TTAOptions(flip=True),
    )([pixels])
    assert (found.labels == 1).all()
    assert found.confidence == pytest.approx(1)
    assert found.entropy == pytest.approx(0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_copy_with_scores_that_are_not_finite_is_refused(value: float) -> None:
    class Broken(Means):
        def forward(self, images: Tensor) -> SegmentationOutput:
            logits = super().forward(images).logits
            if images.shape[2] == 32:  # the copy at scale 2
                logits[0, 0, 1, 1] = value
            return SegmentationOutput(logits)

    with pytest.raises(NotFiniteError):
        segment(Broken(4), noise(16, 16), tta=TTAOptions(scales=(1, 2)))


@pytest.mark.parametrize("options", [{"tta": {"flip": True}}, {"tta": {"scales": [1, 2]}}, {"windows": {"size": 512}}])
def test_boxes_cannot_be_combined_with_copies_or_windows(options: dict[str, Any]) -> None:
    common = {"model": "m", "images": "i", "output": "o"}
    SegmentConfig(**common, **options)
    with pytest.raises(ValueError, match=r"do not work with --instances\.proposals"):
        SegmentConfig(**common, **options, instances={"proposals": 5})
