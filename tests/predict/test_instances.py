"""Instance-wise inference: scores of boxes, the choice of boxes, and selective search."""

import ctypes
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.data.preprocessing import Instances, Preprocessing
from pipeline.data.proposals import selective_search
from pipeline.errors import UserError
from pipeline.models import configure
from pipeline.models.upsampling import upsample
from pipeline.predict.device import normalise
from pipeline.predict.instances import CROPS, choose, instance_scores
from pipeline.predict.segmenter import Segmenter
from tests.support.argmax import assert_argmax


def boxes(*corners: tuple[int, int, int, int]) -> np.ndarray:
    return np.array(corners, np.int32)


def shapes() -> np.ndarray:
    """Return a noisy image of a red and a blue rectangle on green."""
    rng = np.random.default_rng(0)
    pixels = np.full((160, 200, 3), (90, 160, 70))
    pixels[20:70, 30:110] = (200, 40, 30)
    pixels[90:140, 120:180] = (40, 50, 190)
    return np.clip(pixels + rng.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    intersection = sides.prod()
    return intersection / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - intersection)


# --- pasting


def test_a_box_of_the_crop_size_is_pasted_unchanged() -> None:
    image = torch.randn(3, 12, 16)
    scores = instance_scores(lambda crops: crops, image, boxes((4, 2, 12, 10)), side=8)
    expected = torch.zeros_like(image)
    expected[:, 2:10, 4:12] = image[:, 2:10, 4:12].clamp(min=0)
    torch.testing.assert_close(scores, expected)


def test_overlapping_boxes_of_several_batches_are_fused_by_the_maximum() -> None:
    """The boxes fill three batches and have different scores."""
    scored = 0

    def score(crops: Tensor) -> Tensor:
        nonlocal scored
        values = torch.arange(scored, scored + len(crops), dtype=torch.float32) % 7 + 1
        scored += len(crops)
        return values[:, None, None, None].expand(-1, 2, 4, 4)

    rng = np.random.default_rng(1)
    corners = rng.integers(0, 9, (2 * CROPS + 3, 2))
    many = np.concatenate([corners, corners + rng.integers(1, 8, corners.shape)], axis=1).astype(np.int32)
    found = instance_scores(score, torch.randn(3, 16, 16), many, side=4)
    expected = torch.zeros(2, 16, 16)
    for i, (left, top, right, bottom) in enumerate(many):
        expected[:, top:bottom, left:right] = expected[:, top:bottom, left:right].clamp(min=i % 7 + 1)
    torch.testing.assert_close(found, expected)


def test_boxes_are_resized_to_the_input_size_and_back() -> None:
    image = torch.randn(3, 40, 60)
    inputs = []

    def score(crops: Tensor) -> Tensor:
        inputs.append(crops)
        return crops + 10

    found = instance_scores(score, image, boxes((10, 4, 50, 24)), side=8)
    crop = F.interpolate(image[None, :, 4:24, 10:50], size=(8, 8), mode="bilinear")
    torch.testing.assert_close(inputs[0], crop)
    expected = F.interpolate(crop + 10, size=(20, 40), mode="bilinear")[0]
    torch.testing.assert_close(found[:, 4:24, 10:50], expected)
    assert found[:, :4].abs().max() == 0


# --- choosing


def test_the_first_large_enough_boxes_are_chosen() -> None:
    found = boxes((0, 0, 5, 50), (0, 0, 20, 20), (3, 3, 40, 30), (0, 0, 19, 100), (1, 1, 60, 60))
    chosen = choose(found, Instances(proposals=2, min_side=20))
    assert chosen.tolist() == [[0, 0, 20, 20], [3, 3, 40, 30]]


def test_if_no_box_is_large_enough_the_one_with_the_longest_short_side_is_chosen() -> None:
    found = boxes((0, 0, 5, 50), (0, 0, 9, 8), (3, 3, 4, 4))
    assert choose(found, Instances(proposals=5, min_side=100)).tolist() == [[0, 0, 9, 8]]


# --- selective search


def test_selective_search_finds_the_objects_and_is_reproducible() -> None:
    pixels = shapes()
    found = selective_search(pixels)
    assert found.dtype == np.int32
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2] <= 200).all()
    assert (found[:, 3] <= 160).all()
    assert (found[:, :2] < found[:, 2:]).all()
    for target in ((30, 20, 110, 70), (120, 90, 180, 140)):
        assert max(iou(np.array(target), box) for box in found) > 0.9
    for _ in range(3):
        assert np.array_equal(selective_search(pixels), found)


def test_the_order_of_the_boxes_does_not_depend_on_other_threads() -> None:
    """OpenCV ranks boxes by C's `rand()`, which other threads of the process call too, those of Ray for example."""
    pixels = shapes()
    found = selective_search(pixels)
    over = threading.Event()
    libc = ctypes.CDLL(None)

    def draw() -> None:
        while not over.wait(0.0005):
            libc.rand()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        assert all(np.array_equal(selective_search(pixels), found) for _ in range(3))
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2), (3, 200)])
def test_every_image_has_a_box(size: tuple[int, int]) -> None:
    found = selective_search(np.zeros((*size, 3), np.uint8))
    assert len(found) >= 1
    assert (found[:, 2:] <= (size[1], size[0])).all()


def test_without_opencv_the_error_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2.ximgproc", None)
    with pytest.raises(UserError, match=r"pip install 'segpipe\[proposals\]'"):
        selective_search(shapes())


# --- the segmenter


def test_the_segmenter_fuses_the_scores_of_its_boxes() -> None:
    torch.manual_seed(0)
    model = configure("segnet_basic", {"width": 0.125}).build(4).eval()
    instances = Instances(proposals=6, min_side=30)
    options: dict[str, Any] = {"preprocessing": Preprocessing(), "device": torch.device("cpu")}
    pixels = shapes()
    by_boxes = Segmenter(model, instances=instances, **options)([pixels, pixels[::-1].copy()])
    image = normalise(torch.from_numpy(pixels)[None], Preprocessing())[0]
    with torch.inference_mode():
        scores = instance_scores(
            lambda crops: upsample(model(crops).logits, (224, 224), stride=1),
            image,
            choose(selective_search(pixels), instances),
        )
    assert_argmax(by_boxes[0].labels, scores, margin=1e-3, share=0.5)
    assert by_boxes[0].labels.shape == (160, 200)
    (whole,) = Segmenter(model, **options)([pixels])
    assert not np.array_equal(by_boxes[0].labels, whole.labels)
