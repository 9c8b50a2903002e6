"""Instance-wise inference: a network segments the proposal boxes of an image one by one.

Noh, Hong & Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015, section 4.3. Every object
reaches the network at the size that it was trained on, so large objects are not fragmented and small ones not lost.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.data.preprocessing import Instances

SIDE = 224  # side of the network's input, in pixels
CROPS = 8  # crops in a batch


def instance_scores(
    score: Callable[[Tensor], Tensor], image: Tensor, boxes: NDArray[np.int32], *, side: int = SIDE
) -> Tensor:
    """Compute the scores of an image from those of its boxes.

    Each box is cut out, resized to `side` x `side`, scored, resized back and pasted. The result is the maximum over
    the boxes and 0, for each class and pixel; pixels outside all boxes have score 0 for every class.

    Args:
        score: Function from normalised crops [n, 3, side, side] to scores [n, classes, side, side].
        image: Normalised image [3, height, width].
        boxes: One or more boxes within the image, int [boxes, 4] of left, top, right, bottom.
        side: Side of the crops that are scored, in pixels.

    Returns:
        Scores [classes, height, width], at least 0.
    """
    fused: Tensor | None = None
    for start in range(0, len(boxes), CROPS):
        group = boxes[start : start + CROPS].tolist()
        crops = [_resize(image[:, top:bottom, left:right], (side, side)) for left, top, right, bottom in group]
        for scores, (left, top, right, bottom) in zip(score(torch.stack(crops)), group, strict=True):
            if fused is None:
                fused = scores.new_zeros(len(scores), *image.shape[-2:])
            target = fused[:, top:bottom, left:right]
            target.copy_(torch.maximum(target, _resize(scores, (bottom - top, right - left))))
    assert fused is not None
    return fused


def choose(boxes: NDArray[np.int32], options: Instances) -> NDArray[np.int32]:
    """Return the first boxes that are large enough, or the one with the longest short side if none is."""
    sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    kept = boxes[sides >= options.min_side][: options.proposals]
    return kept if len(kept) else boxes[[int(sides.argmax())]]


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x[None], size=size, mode="bilinear", align_corners=False)[0]
