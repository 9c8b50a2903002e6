"""Box targets, non-maximum suppression and the choice of detections."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.metrics.boxes import pairwise_iou
from pipeline.models.detection.boxes import LARGEST_LOG_SCALE, Selection, clip, decode, encode, nms, select
from tests.support.boxes import random_boxes


def boxes_of(seed: int, n: int, least: int = 1) -> Tensor:
    return torch.from_numpy(random_boxes(np.random.default_rng(seed), n, least=least))


def test_targets_are_those_of_the_papers_equations() -> None:
    proposal, truth = torch.tensor([10.0, 20, 30, 60]), torch.tensor([15.0, 10, 55, 90])
    px, py, pw, ph = 20, 40, 20, 40
    gx, gy, gw, gh = 35, 50, 40, 80
    expected = [(gx - px) / pw, (gy - py) / ph, math.log(gw / pw), math.log(gh / ph)]
    torch.testing.assert_close(encode(truth, proposal), torch.tensor(expected))


def test_targets_invert_exactly() -> None:
    truth, proposals = boxes_of(0, 500, least=2), boxes_of(1, 500, least=2)
    torch.testing.assert_close(decode(encode(truth, proposals), proposals), truth, rtol=0, atol=1e-11)
    deltas = torch.randn(500, 4, dtype=torch.float64)
    torch.testing.assert_close(encode(decode(deltas, proposals), proposals), deltas, rtol=0, atol=1e-11)


def test_a_box_does_not_grow_beyond_all_bounds() -> None:
    box = decode(torch.tensor([0.0, 0, 1e4, LARGEST_LOG_SCALE]), torch.tensor([0.0, 0, 16, 16]))
    torch.testing.assert_close(box[2:] - box[:2], torch.tensor([1000.0, 1000]))


def test_boxes_are_clipped_to_the_image() -> None:
    boxes = torch.tensor([[-5.0, 2, 300, 80], [30, -9, 40, 200]])
    assert clip(boxes, (100, 200)).tolist() == [[0, 2, 200, 80], [30, 0, 40, 100]]


def brute_force_nms(boxes: np.ndarray, scores: np.ndarray, iou: float) -> list[int]:
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    for i in order:
        if all(pairwise_iou(boxes[i : i + 1], boxes[k : k + 1])[0, 0] <= iou for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("levels", [1, 4, 100_000])
@pytest.mark.parametrize("seed", range(5))
def test_nms_equals_brute_force_with_ties_and_duplicates(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, 60, side=40, least=1)
    boxes = np.concatenate([boxes, boxes[:10]])
    scores = rng.integers(0, levels, 70) / levels
    found = nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.3)
    assert found.tolist() == brute_force_nms(boxes, scores, 0.3)
    assert 5 < len(found) < 60


def test_nms_in_half_precision_keeps_the_order_of_many_ties() -> None:
    boxes = torch.arange(3000)[:, None] * 2 + torch.tensor([0, 0, 1, 1])
    scores = torch.ones(3000, dtype=torch.bfloat16)
    assert nms(boxes, scores, 0.5).tolist() == list(range(3000))


def test_nms_of_no_boxes() -> None:
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def test_boxes_are_suppressed_within_their_class_alone() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [7, 7, 7, 9]])
    scores = torch.tensor([[0.9, 0.3], [0.8, 0.4], [0.05, 0.6], [0.9, 0.9]])
    found = select(boxes[:, None], scores, Selection(score=0.1, iou=0.5, limit=10))
    assert found.labels.tolist() == [0, 1, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.6, 0.4])
    assert found.boxes.tolist() == boxes[[0, 2, 1]].tolist()
    assert select(boxes[:, None], scores, Selection(score=0.1, iou=0.5, limit=1)).labels.tolist() == [0]


def test_each_class_has_its_own_box() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 30, 30]]])
    found = select(boxes, torch.tensor([[0.2, 0.7]]), Selection(score=0.1, iou=0.5))
    assert found.boxes.tolist() == [[20, 20, 30, 30], [0, 0, 10, 10]]
    assert found.labels.tolist() == [1, 0]
