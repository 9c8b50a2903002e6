"""Instance-wise inference: a network looks at one proposal box after the other.

Noh, Hong & Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015, section 4.3. Objects of any size
reach the network at the size it was trained on: too large ones are not cut, small ones not lost.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.data.preprocessing import Instances

SIDE = 224  # pixels of the crops that the network sees
CROPS = 8  # of a batch


def instance_scores(
    score: Callable[[Tensor], Tensor], image: Tensor, boxes: NDArray[np.int32], *, side: int = SIDE
) -> Tensor:
    """Scores of an image, put together from those of its boxes.

    Each box is cut out, resized to `side` x `side`, scored, resized back and pasted; where boxes overlap the larger
    score of each class holds. What lies in no box has score 0 for every class.

    Args:
        score: from normalised crops [n, 3, side, side] to scores [n, classes, side, side].
        image: normalised, [3, height, width].
        boxes: int [boxes, 4], at least one: left, top, right, bottom, within the image.

    Returns:
        [classes, height, width], none below zero.
    """
    fused: Tensor | None = None
    for start in range(0, len(boxes), CROPS):
        group = boxes[start : start + CROPS].tolist()
        crops = [_resized(image[:, top:bottom, left:right], (side, side)) for left, top, right, bottom in group]
        for scores, (left, top, right, bottom) in zip(score(torch.stack(crops)), group, strict=True):
            if fused is None:
                fused = scores.new_zeros(len(scores), *image.shape[-2:])
            place = fused[:, top:bottom, left:right]
            place.copy_(torch.maximum(place, _resized(scores, (bottom - top, right - left))))
    assert fused is not None
    return fused


def choose(boxes: NDArray[np.int32], options: Instances) -> NDArray[np.int32]:
    """The first boxes that are large enough; the one of the longest short side where none is."""
    sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    kept = boxes[sides >= options.min_side][: options.proposals]
    return kept if len(kept) else boxes[[int(sides.argmax())]]


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x[None], size=size, mode="bilinear", align_corners=False)[0]
