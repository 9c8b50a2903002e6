"""Arithmetic of boxes: regression targets, clipping, non-maximum suppression.

Boxes are [..., 4] of left, top, right, bottom, with right and bottom exclusive.
"""

import math
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor

LARGEST_LOG_SCALE = math.log(1000 / 16)  # keeps exp() finite for untrained networks, as in py-faster-rcnn


class Selection(NamedTuple):
    """A choice of detections among scored boxes.

    Attributes:
        score: Detections have a score above this one.
        iou: Of two boxes of a class with a larger IoU, only the one with the higher score is kept.
        limit: Largest number of detections in an image.
    """

    score: float
    iou: float
    limit: int = 100


class DetectorOutput(NamedTuple):
    """The detections in one image, those with the highest scores first.

    Attributes:
        boxes: Left, top, right, bottom in pixels of the image, [n, 4].
        labels: Classes, int64 [n].
        scores: Confidences, [n].
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor


def encode(boxes: Tensor, references: Tensor) -> Tensor:
    """Return the regression targets that turn reference boxes into boxes (R-CNN, appendix C, equations 6 to 9).

    Args:
        boxes: True boxes of positive area, [..., 4].
        references: Proposals of positive area, [..., 4].

    Returns:
        [..., 4] of shift of the centre in units of the reference's sides, x and y, and logarithm of the ratio of the
        sides, width and height.
    """
    sides, reference_sides = boxes[..., 2:] - boxes[..., :2], references[..., 2:] - references[..., :2]
    shift = (boxes[..., :2] + sides / 2 - references[..., :2] - reference_sides / 2) / reference_sides
    return torch.cat([shift, torch.log(sides / reference_sides)], dim=-1)


def decode(deltas: Tensor, references: Tensor) -> Tensor:
    """Return the boxes that `encode` made targets of (R-CNN, appendix C, equations 1 to 4).

    A side grows by a factor of at most 62.5, so that the boxes of an untrained network are finite.
    """
    reference_sides = references[..., 2:] - references[..., :2]
    centres = references[..., :2] + reference_sides / 2 + deltas[..., :2] * reference_sides
    sides = reference_sides * deltas[..., 2:].clamp(max=LARGEST_LOG_SCALE).exp()
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes [..., 4] clipped to an image of (height, width) `size`."""
    height, width = size
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limits)


def not_empty(boxes: Tensor) -> Tensor:
    """Return whether each box [..., 4] has a positive area, bool [...]."""
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


def nms(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Return the indices of the boxes that non-maximum suppression keeps, those with the highest scores first.

    A box goes if its IoU with a box that is kept and has a higher score is larger than `iou`. Of equal scores the
    earlier box comes first, on every device; `torchvision.ops.nms` leaves that order open.

    Args:
        boxes: Boxes [n, 4].
        scores: Scores [n].
        iou: Largest IoU of two boxes that are kept.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    distinct = torch.arange(len(order), 0, -1, device=boxes.device, dtype=boxes.dtype)
    return order[torchvision.ops.nms(boxes[order], distinct, iou)]


def candidates(boxes: Tensor, scores: Tensor, selection: Selection) -> Tensor:
    """Return which boxes are candidates for a detection of each class, before suppression, bool [n, classes].

    Args:
        boxes: Boxes [n, classes, 4], or [n, 1, 4] if they do not depend on the class.
        scores: Scores [n, classes], without the background.
        selection: Choice of the detections.
    """
    return (scores > selection.score) & not_empty(boxes)


def select(boxes: Tensor, scores: Tensor, selection: Selection) -> DetectorOutput:
    """Return the detections among the scored boxes of an image, with suppression within each class.

    Args:
        boxes: Boxes [n, classes, 4], or [n, 1, 4] if they do not depend on the class. Empty ones are dropped.
        scores: Scores [n, classes], without the background.
        selection: Choice of the detections.
    """
    chosen = candidates(boxes, scores, selection)
    labels, rows = torch.nonzero(chosen.T, as_tuple=True)  # by class
    found = DetectorOutput(boxes.expand(-1, scores.shape[1], -1)[rows, labels], labels, scores[rows, labels])
    classes = torch.arange(len(labels), device=labels.device).split(chosen.sum(dim=0).tolist())
    kept = [one[nms(found.boxes[one], found.scores[one], selection.iou)] for one in classes if len(one)]
    joined = torch.cat(kept) if kept else rows
    best = joined[found.scores[joined].argsort(descending=True, stable=True)[: selection.limit]]
    return DetectorOutput(*(column[best] for column in found))
