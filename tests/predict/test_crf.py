"""The dense CRF of a segmenter on its device, here a CPU."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.crf_scenes import draw
from pipeline.crf import CRFParams, crf_of_scores, gpu
from pipeline.data.preprocessing import Preprocessing, Windows
from pipeline.models.layers import SegmentationOutput
from pipeline.predict.crf import DeviceCRF
from pipeline.predict.segmenter import Segmenter

PARAMS = CRFParams(sigma_alpha=20, sigma_beta=8)
IMAGES = [draw(90, 70, classes=3, present=3, seed=seed).pixels for seed in range(3)]


class Colours(nn.Module):
    """A network at stride 8 whose scores depend on the mean colour of a unit's pixels."""

    output_stride = 8

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.AvgPool2d(8, ceil_mode=True), nn.Conv2d(3, 5, 1))

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores."""
        return SegmentationOutput(self.layers(images))


def segmenter(crf: DeviceCRF | None = None, **options: Any) -> Segmenter:
    return Segmenter(Colours().eval(), preprocessing=Preprocessing(), device=torch.device("cpu"), crf=crf, **options)


def on_device(params: CRFParams = PARAMS) -> DeviceCRF:
    return DeviceCRF(params=params, mode="exact")


@pytest.mark.parametrize("options", [{}, {"windows": Windows(above=1, size=64, overlap=32)}], ids=["whole", "windows"])
def test_the_refined_labels_are_those_of_the_kept_scores(options: dict[str, Any]) -> None:
    kept = segmenter(keep_scores=True, **options)(IMAGES)
    for image, one, found in zip(IMAGES, kept, segmenter(on_device(), **options)(IMAGES), strict=True):
        assert found.refined is not None
        assert found.refined.dtype == found.labels.dtype == np.uint8
        assert one.scores is not None
        expected = crf_of_scores(image, one.scores, stride=8, params=PARAMS, mode="exact").labels
        np.testing.assert_array_equal(found.refined, expected)
        assert (expected != one.labels).any()
        np.testing.assert_array_equal(found.labels, one.labels)
        assert (found.confidence, found.entropy) == (one.confidence, one.entropy)
        assert found.crf_ms is not None
        assert found.scores is found.pixels is None


def test_a_refused_image_is_left_to_the_cpu_with_its_scores_and_pixels() -> None:
    """On a black image float32 can place the colours, however narrow the kernel is."""
    images = [IMAGES[0], np.zeros_like(IMAGES[0])]
    kept = segmenter(keep_scores=True)(images)
    refused, refined = segmenter(on_device(CRFParams(sigma_beta=1e-6)))(images)
    assert refused.refined is refused.crf_ms is None
    np.testing.assert_array_equal(refused.pixels, images[0])
    np.testing.assert_array_equal(refused.scores, kept[0].scores)
    assert refined.refined is not None
    assert refined.scores is refined.pixels is None


@pytest.mark.parametrize("options", [{}, {"windows": Windows(above=1, size=64, overlap=32)}], ids=["whole", "windows"])
def test_what_does_not_fit_the_memory_is_left_to_the_cpu_and_that_is_said_once(monkeypatch, capsys, options) -> None:
    def full(*arguments: Any, **options: Any) -> NDArray:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu, "refine_batch", full)
    monkeypatch.setattr(gpu, "crf_of_scores", full)
    kept = segmenter(keep_scores=True, **options)(IMAGES)
    for image, one, found in zip(IMAGES, kept, segmenter(on_device(), **options)(IMAGES), strict=True):
        assert found.refined is None
        assert found.pixels is image
        np.testing.assert_array_equal(found.scores, one.scores)
    assert capsys.readouterr().err.count("does not fit the GPU's memory") == 1


def test_a_batch_that_does_not_fit_the_memory_is_refined_image_by_image(monkeypatch, capsys) -> None:
    expected = segmenter(on_device())(IMAGES)
    refine_batch = gpu.refine_batch

    def small(pixels: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if len(pixels) > 1:
            raise torch.OutOfMemoryError
        return refine_batch(pixels, *arguments, **options)

    monkeypatch.setattr(gpu, "refine_batch", small)
    for one, found in zip(expected, segmenter(on_device())(IMAGES), strict=True):
        np.testing.assert_array_equal(found.refined, one.refined)
        assert found.scores is None
    assert capsys.readouterr().err == ""
