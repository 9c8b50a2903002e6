"""The rules by which regions become training examples.

    R-CNN fine-tuning   Objects: proposals whose IoU with a true box is 0.5 or more; the others are background. A batch
                        has 32 and 96 (section 2.3).
    R-CNN SVM           Positive: the true boxes of the class alone. Negative: proposals whose IoU with each of them is
                        below 0.3. The other proposals are left out (section 2.3; appendix B gives the reasons).
    R-CNN regression    Proposals whose IoU with the nearest true box of the class is above 0.6 (appendix C).
    Fast R-CNN          Objects: IoU of 0.5 or more, at most 25%. Background: IoU in [0.1, 0.5). An image has 64 regions
                        (section 2.3).

Arrays are NumPy's, so that the rules can run wherever examples are drawn.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.boxes import box_sides, pairwise_iou


class SampleRule(NamedTuple):
    """A rule by which the regions of an image are sampled.

    Attributes:
        regions: Largest number of regions.
        foreground_share: Largest share of regions with an object.
        foreground: Smallest IoU of a region with an object.
        background: Range [low, high) of the IoU of a region without an object.
    """

    regions: int
    foreground_share: float = 0.25
    foreground: float = 0.5
    background: tuple[float, float] = (0.1, 0.5)


FAST_RCNN = SampleRule(regions=64)
FINE_TUNING = SampleRule(regions=128, background=(0.0, 0.5))


class RegionSample(NamedTuple):
    """Sampled regions of an image, those with objects first.

    Attributes:
        boxes: Regions, float32 [n, 4].
        labels: Class of the true box of the largest IoU, or the number of classes for the background, int64 [n].
        matched: True box of the largest IoU, float32 [n, 4]; for the background, the region itself.
        foreground: Number of regions with objects.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    matched: NDArray[np.float32]
    foreground: int


def sample_regions(
    proposals: NDArray,
    boxes: NDArray,
    labels: NDArray,
    *,
    num_classes: int,
    rule: SampleRule,
    rng: np.random.Generator,
) -> RegionSample:
    """Sample regions among the proposals and the true boxes of an image.

    Without enough objects or background, there are fewer regions than `rule.regions`; an image without true boxes has
    none by Fast R-CNN's rule, because no IoU reaches 0.1. Regions of zero area are left out.

    Args:
        proposals: Proposals [n, 4].
        boxes: True boxes [m, 4].
        labels: Their classes, [m].
        num_classes: Number of classes, and label of the background.
        rule: The rule.
        rng: Source of randomness.
    """
    truth = np.asarray(boxes, np.float32).reshape(-1, 4)
    regions = np.concatenate([truth, np.asarray(proposals, np.float32).reshape(-1, 4)])
    regions = regions[(box_sides(regions) > 0).all(axis=1)]
    ious = pairwise_iou(regions, truth)
    best = ious.max(axis=1, initial=0)
    low, high = rule.background
    with_object = np.flatnonzero(best >= rule.foreground)
    without = np.flatnonzero((best >= low) & (best < high))
    positive = _some(with_object, round(rule.regions * rule.foreground_share), rng)
    negative = _some(without, rule.regions - len(positive), rng)
    nearest = ious[positive].argmax(axis=1) if len(positive) else np.zeros(0, np.int64)
    return RegionSample(
        regions[np.concatenate([positive, negative])],
        np.concatenate([np.asarray(labels, np.int64)[nearest], np.full(len(negative), num_classes, np.int64)]),
        np.concatenate([truth[nearest], regions[negative]]),
        len(positive),
    )


def _some(indices: NDArray, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return at most `count` of the indices, in ascending order."""
    if len(indices) <= count:
        return indices
    return np.sort(rng.choice(indices, count, replace=False))


def svm_negatives(
    proposals: NDArray, boxes: NDArray, labels: NDArray, *, num_classes: int, below: float = 0.3
) -> NDArray[np.bool_]:
    """Return whether each proposal is a negative example of each class's SVM, bool [proposals, classes].

    The positive examples of a class are its true boxes; proposals that are not negative are left out. In an image
    without a box of the class, all proposals are negative.

    Args:
        proposals: Proposals [n, 4].
        boxes: True boxes [m, 4].
        labels: Their classes, [m].
        num_classes: Number of classes.
        below: Negative proposals have a smaller IoU than this with each true box of the class.
    """
    ious = pairwise_iou(proposals, np.asarray(boxes).reshape(-1, 4))
    of_class = [ious[:, np.asarray(labels) == label].max(axis=1, initial=0) for label in range(num_classes)]
    return np.stack(of_class, axis=1) < below


class RegressionPairs(NamedTuple):
    """Examples of box regression.

    Attributes:
        proposals: Index of the proposal of each pair, int64 [pairs].
        labels: Class, int64 [pairs].
        matched: True box, [pairs, 4].
    """

    proposals: NDArray[np.int64]
    labels: NDArray[np.int64]
    matched: NDArray


def regression_pairs(
    proposals: NDArray, boxes: NDArray, labels: NDArray, *, num_classes: int, above: float = 0.6
) -> RegressionPairs:
    """Return the pairs of a proposal and the nearest true box of a class, if their IoU is larger than `above`.

    Args:
        proposals: Proposals [n, 4].
        boxes: True boxes [m, 4].
        labels: Their classes, [m].
        num_classes: Number of classes.
        above: IoU that a pair exceeds.
    """
    truth, classes = np.asarray(boxes).reshape(-1, 4), np.asarray(labels, np.int64)
    parts = [RegressionPairs(np.zeros(0, np.int64), np.zeros(0, np.int64), truth[:0])]
    for label in range(num_classes):
        mine = truth[classes == label]
        if len(mine) == 0:
            continue
        ious = pairwise_iou(proposals, mine)
        near = np.flatnonzero(ious.max(axis=1, initial=0) > above)
        parts.append(RegressionPairs(near, np.full(len(near), label, np.int64), mine[ious[near].argmax(axis=1)]))
    return RegressionPairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class GridTargets(NamedTuple):
    """The true boxes of an image by the cells of YOLO's grid.

    Attributes:
        boxes: Left, top, right, bottom in units of the image, float32 [S, S, 4]; zeros in a cell without an object.
        labels: Classes, int64 [S, S]; -1 in a cell without an object.
        dropped: Number of true boxes whose cell was taken by an earlier box.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    dropped: int


def grid_targets(boxes: NDArray, labels: NDArray, *, size: tuple[int, int], grid: int) -> GridTargets:
    """Return the true boxes by the grid cells in which their centres fall (YOLO, section 2).

    A cell has one object, because it predicts one set of class probabilities. Of several, the first one is kept, as in
    the released code, and the others are counted. Boxes of zero area are left out.

    Args:
        boxes: True boxes [n, 4] within the image.
        labels: Their classes, [n].
        size: (height, width) of the image.
        grid: Number S of cells in a row and in a column.
    """
    height, width = size
    relative = np.asarray(boxes, np.float64).reshape(-1, 4) / [width, height, width, height]
    solid = (box_sides(relative) > 0).all(axis=1)
    relative, classes = relative[solid], np.asarray(labels)[solid]
    cells = np.floor((relative[:, :2] + relative[:, 2:]) / 2 * grid).astype(np.int64).clip(0, grid - 1)
    found = GridTargets(np.zeros((grid, grid, 4), np.float32), np.full((grid, grid), -1, np.int64), 0)
    dropped = 0
    for (column, row), box, label in zip(cells, relative, classes, strict=True):
        if found.labels[row, column] >= 0:
            dropped += 1
            continue
        found.boxes[row, column], found.labels[row, column] = box, label
    return found._replace(dropped=dropped)
