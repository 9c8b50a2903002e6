"""Comparison of the detections in an image with its true boxes, by the rules of Pascal VOC and of COCO.

Both rules visit the detections of a class from the highest score down, and let each take a true box of its class:

    VOC     The true box of the largest IoU, whether it is free or not. If it is taken, the detection is wrong.
            (Everingham et al., IJCV 2010, section 4.2; `VOCevaldet.m` of the development kit.)
    COCO    The free true box of the largest IoU, at each of ten IoU thresholds. (`cocoeval.py` of pycocotools.)

A detection that takes a box to be ignored is neither right nor wrong, and such a box need not be found. `difficult`
boxes (VOC) take one detection under COCO's rule, and any number under VOC's. `crowd` regions (COCO) take any number;
what counts is the share of the detection that lies in the region, not the IoU. VOC has no crowds: here a detection
without a true box that lies in a crowd is ignored.

The order of equal scores is that of the detections in the image and, between images, that of `order`. The results so
depend on neither the sequence nor the grouping in which images are added.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.boxes import box_areas, covered_shares, pairwise_iou

COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
COCO_LIMIT = 100  # detections per image and class
ALL_AREAS = (0.0, np.inf)
COCO_AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}  # in square pixels
RIGHT, WRONG, IGNORED = 1, 0, -1


@dataclass(frozen=True)
class Truth:
    """The true boxes of one image.

    Attributes:
        boxes: Left, top, right, bottom, [n, 4].
        labels: Classes 0..classes-1, int [n].
        difficult: Boxes that need not be found, bool [n].
        crowd: Regions of many objects that need not be found, bool [n].
    """

    boxes: NDArray
    labels: NDArray
    difficult: NDArray[np.bool_]
    crowd: NDArray[np.bool_]

    @staticmethod
    def of(boxes: NDArray, labels: NDArray, difficult: NDArray | None = None, crowd: NDArray | None = None) -> "Truth":
        """Return true boxes of any array-like types; nothing is difficult or a crowd by default."""
        flags = [np.zeros(len(labels), bool) if f is None else np.asarray(f, bool) for f in (difficult, crowd)]
        return Truth(np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels, np.int64), *flags)

    @property
    def ignored(self) -> NDArray[np.bool_]:
        """The boxes that need not be found."""
        return self.difficult | self.crowd


@dataclass(frozen=True)
class Detections:
    """The detections in one image.

    Attributes:
        boxes: Left, top, right, bottom, [n, 4].
        labels: Classes 0..classes-1, int [n].
        scores: Confidences of any scale, [n].
    """

    boxes: NDArray
    labels: NDArray
    scores: NDArray

    @staticmethod
    def of(boxes: NDArray, labels: NDArray, scores: NDArray) -> "Detections":
        """Return detections of any array-like types.

        Raises:
            ValueError: A score is not a number.
        """
        numbers = np.asarray(scores, np.float64)
        if np.isnan(numbers).any():
            raise ValueError(f"{int(np.isnan(numbers).sum())} of {len(numbers)} scores are not numbers")
        return Detections(np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels, np.int64), numbers)


@dataclass(frozen=True)
class Matches:
    """Compared detections of any number of images; they are added with `+` or, if there are many, with `merged`.

    Its size grows with the number of detections (about 30 bytes each), because average precision sorts all of them.

    Attributes:
        labels: Class of each detection, int32 [n].
        scores: Score of each detection, float64 [n].
        orders: Position of its image in the data set, int64 [n].
        ranks: Position among the detections of its image by descending score, int32 [n].
        outcomes: `RIGHT`, `WRONG` or `IGNORED` at each IoU threshold, int8 [n, thresholds].
        positives: Boxes to be found of each class, int64 [classes].
    """

    labels: NDArray[np.int32]
    scores: NDArray[np.float64]
    orders: NDArray[np.int64]
    ranks: NDArray[np.int32]
    outcomes: NDArray[np.int8]
    positives: NDArray[np.int64]

    @staticmethod
    def zeros(num_classes: int, thresholds: int) -> "Matches":
        """Return the matches of no images."""
        return Matches(
            np.zeros(0, np.int32),
            np.zeros(0),
            np.zeros(0, np.int64),
            np.zeros(0, np.int32),
            np.zeros((0, thresholds), np.int8),
            np.zeros(num_classes, np.int64),
        )

    @staticmethod
    def merged(parts: Iterable["Matches"]) -> "Matches":
        """Return the matches of all parts, of which there is at least one."""
        some = list(parts)
        return Matches(
            labels=np.concatenate([part.labels for part in some]),
            scores=np.concatenate([part.scores for part in some]),
            orders=np.concatenate([part.orders for part in some]),
            ranks=np.concatenate([part.ranks for part in some]),
            outcomes=np.concatenate([part.outcomes for part in some]),
            positives=np.sum([part.positives for part in some], axis=0),
        )

    def __add__(self, other: "Matches") -> "Matches":
        return Matches.merged([self, other])


def voc_outcomes(
    detections: Detections, truth: Truth, *, thresholds: tuple[float, ...] = (0.5,), pixel: int = 0
) -> NDArray[np.int8]:
    """Compare the detections in one image with its true boxes by VOC's rule.

    Args:
        detections: Detections in the image.
        truth: True boxes of the image.
        thresholds: Smallest IoUs of a right detection.
        pixel: 1 if right and bottom are the last pixels inside the box, as in VOC's annotations; 0 if they are
            exclusive. See `pipeline.metrics.boxes`.

    Returns:
        `RIGHT`, `WRONG` or `IGNORED` for each detection at each threshold, int8 [n, thresholds].
    """

    def outcomes(boxes: NDArray, objects: Truth) -> NDArray[np.int8]:
        found = np.full((len(boxes), len(thresholds)), WRONG, np.int8)
        ious = pairwise_iou(boxes, objects.boxes[~objects.crowd], pixel=pixel)
        crowds = covered_shares(boxes, objects.boxes[objects.crowd], pixel=pixel).max(axis=1, initial=0)
        difficult = objects.difficult[~objects.crowd]
        for t, threshold in enumerate(thresholds):
            taken = np.zeros(len(difficult), bool)
            for d in range(len(boxes)):
                best = int(ious[d].argmax()) if len(difficult) else -1  # the first one of equal IoUs
                if best < 0 or ious[d, best] < threshold:
                    found[d, t] = IGNORED if crowds[d] >= threshold else WRONG
                elif difficult[best]:
                    found[d, t] = IGNORED
                elif not taken[best]:
                    found[d, t] = RIGHT
                    taken[best] = True
        return found

    return _by_class(detections, truth, outcomes, thresholds=len(thresholds))


def coco_outcomes(
    detections: Detections,
    truth: Truth,
    *,
    thresholds: tuple[float, ...] = COCO_THRESHOLDS,
    limit: int = COCO_LIMIT,
    areas: tuple[float, float] = ALL_AREAS,
) -> NDArray[np.int8]:
    """Compare the detections in one image with its true boxes by COCO's rule.

    Args:
        detections: Detections in the image.
        truth: True boxes of the image.
        thresholds: Smallest IoUs of a right detection.
        limit: Number of detections of each class that count, those with the highest scores; the others are ignored.
        areas: Least and largest area of the boxes that count, in square pixels. True boxes of other areas need not be
            found, and a detection of another area that takes no true box is ignored.

    Returns:
        `RIGHT`, `WRONG` or `IGNORED` for each detection at each threshold, int8 [n, thresholds].
    """

    def outcomes(boxes: NDArray, objects: Truth) -> NDArray[np.int8]:
        found = np.full((len(boxes), len(thresholds)), WRONG, np.int8)
        found[~_within(boxes, areas)] = IGNORED
        found[limit:] = IGNORED
        need_not = objects.ignored | ~_within(objects.boxes, areas)
        last = np.argsort(need_not, kind="stable")  # boxes to be ignored come after the others
        ignored, crowd, truths = need_not[last], objects.crowd[last], objects.boxes[last]
        counted = boxes[:limit]
        overlaps = np.where(crowd, covered_shares(counted, truths), pairwise_iou(counted, truths))
        for t, threshold in enumerate(thresholds):
            free = np.ones(len(truths), bool)
            for d in range(len(counted)):
                near = free & (overlaps[d] >= min(threshold, 1 - 1e-10))
                if not near.any():
                    continue
                candidates = np.flatnonzero(near & ~ignored if (near & ~ignored).any() else near)
                best = candidates[::-1][overlaps[d, candidates[::-1]].argmax()]  # the last one of equal overlaps
                found[d, t] = IGNORED if ignored[best] else RIGHT
                free[best] = crowd[best]
        return found

    return _by_class(detections, truth, outcomes, thresholds=len(thresholds))


def count_positives(truth: Truth, *, num_classes: int, areas: tuple[float, float] = ALL_AREAS) -> NDArray[np.int64]:
    """Return the number of boxes of each class that are to be found, int64 [classes]; for `areas` see `coco_outcomes`.

    Raises:
        ValueError: A label is not a class.
    """
    _check_labels(truth.labels, num_classes)
    wanted = ~truth.ignored & _within(truth.boxes, areas)
    return np.bincount(truth.labels[wanted], minlength=num_classes).astype(np.int64)


def match_voc(
    detections: Detections,
    truth: Truth,
    *,
    num_classes: int,
    order: int,
    thresholds: tuple[float, ...] = (0.5,),
    pixel: int = 0,
) -> Matches:
    """Compare the detections in one image with its true boxes by VOC's rule; see `voc_outcomes`.

    Args:
        detections: Detections in the image.
        truth: True boxes of the image.
        num_classes: Number of classes.
        order: Position of the image in the data set, which decides between equal scores.
        thresholds: Smallest IoUs of a right detection.
        pixel: See `voc_outcomes`.
    """
    outcomes = voc_outcomes(detections, truth, thresholds=thresholds, pixel=pixel)
    return _matches(detections, outcomes, count_positives(truth, num_classes=num_classes), order)


def match_coco(
    detections: Detections,
    truth: Truth,
    *,
    num_classes: int,
    order: int,
    thresholds: tuple[float, ...] = COCO_THRESHOLDS,
    limit: int = COCO_LIMIT,
    areas: tuple[float, float] = ALL_AREAS,
) -> Matches:
    """Compare the detections in one image with its true boxes by COCO's rule; see `coco_outcomes`.

    Args:
        detections: Detections in the image.
        truth: True boxes of the image.
        num_classes: Number of classes.
        order: Position of the image in the data set, which decides between equal scores.
        thresholds: Smallest IoUs of a right detection.
        limit: Number of detections of each class that count.
        areas: Least and largest area of the boxes that count, in square pixels.
    """
    outcomes = coco_outcomes(detections, truth, thresholds=thresholds, limit=limit, areas=areas)
    return _matches(detections, outcomes, count_positives(truth, num_classes=num_classes, areas=areas), order)


def _by_class(
    detections: Detections, truth: Truth, outcomes: Callable[[NDArray, Truth], NDArray[np.int8]], *, thresholds: int
) -> NDArray[np.int8]:
    """Return the outcomes of all detections; `outcomes` compares the boxes of one class, by falling score."""
    found = np.full((len(detections.labels), thresholds), WRONG, np.int8)
    for label in np.unique(detections.labels):
        mine = np.flatnonzero(detections.labels == label)
        mine = mine[np.argsort(-detections.scores[mine], kind="stable")]
        same = truth.labels == label
        objects = Truth(truth.boxes[same], truth.labels[same], truth.difficult[same], truth.crowd[same])
        found[mine] = outcomes(detections.boxes[mine], objects)
    return found


def _matches(detections: Detections, outcomes: NDArray[np.int8], positives: NDArray[np.int64], order: int) -> Matches:
    """Return the matches of an image.

    Raises:
        ValueError: A label is not a class.
    """
    _check_labels(detections.labels, len(positives))
    count = len(detections.labels)
    ranks = np.empty(count, np.int32)
    ranks[np.argsort(-detections.scores, kind="stable")] = np.arange(count, dtype=np.int32)
    return Matches(
        detections.labels.astype(np.int32),
        detections.scores,
        np.full(count, order, np.int64),
        ranks,
        outcomes,
        positives,
    )


def _check_labels(labels: NDArray, num_classes: int) -> None:
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels are {labels.min()}..{labels.max()}, but there are {num_classes} classes")


def _within(boxes: NDArray, areas: tuple[float, float]) -> NDArray[np.bool_]:
    sizes = box_areas(boxes)
    return (sizes >= areas[0]) & (sizes <= areas[1])
