"""Scores of detection from matched detections: curves of precision over recall, and their averages.

Three averages of the precision of a class are in use:

    voc07   The mean of the best precision at recall 0, 0.1, …, 1 or more (VOC until 2009).
    voc10   The area under the curve, made monotone from the right (VOC from 2010).
    coco    The mean of the best precision at recall 0, 0.01, …, 1 or more, as `cocoeval.py` computes it.

A class without a box to be found has no score (NaN) and does not count in a mean.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.matching import (
    COCO_THRESHOLDS,
    IGNORED,
    RIGHT,
    Detections,
    Matches,
    Truth,
    match_coco,
    match_voc,
)

Average = Literal["voc07", "voc10", "coco"]
COCO_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Curve:
    """Precision over recall of one class at one IoU threshold; the detections are in descending order of scores.

    Attributes:
        scores: Score of each detection that is not ignored, float64 [n].
        right: Number of right detections down to each one, int64 [n].
        positives: Number of boxes to be found.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.int64]
    positives: int

    @property
    def precision(self) -> NDArray[np.float64]:
        """Share of right detections among those down to each one, float64 [n]."""
        return self.right / np.arange(1, len(self.right) + 1)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of the boxes that the detections down to each one find, float64 [n]; NaN if there are no boxes."""
        return self.right / self.positives if self.positives else np.full(len(self.right), np.nan)

    def average(self, how: Average) -> float:
        """Return the average precision; NaN if there are no boxes to be found."""
        if self.positives == 0:
            return float("nan")
        # The best precision at this recall or more, and 0 beyond the last detection.
        envelope = np.append(np.maximum.accumulate(self.precision[::-1])[::-1], 0.0)
        match how:
            case "voc07":
                # Counts, because 0.1 · k is inexact: 10 · right >= k · positives.
                points = np.searchsorted(10 * self.right, self.positives * np.arange(11), side="left")
                return float(envelope[points].mean())
            case "voc10":
                return float((envelope[:-1] * np.diff(self.right, prepend=0)).sum() / self.positives)
            case "coco":
                points = np.searchsorted(self.recall, COCO_RECALLS, side="left")
                return float(envelope[points].mean())


def curve(matches: Matches, label: int, threshold: int = 0) -> Curve:
    """Return the curve of a class.

    Args:
        matches: Matches of all images.
        label: The class.
        threshold: Index of the IoU threshold.
    """
    mine = np.flatnonzero((matches.labels == label) & (matches.outcomes[:, threshold] != IGNORED))
    mine = mine[np.lexsort((matches.ranks[mine], matches.orders[mine], -matches.scores[mine]))]
    right = (matches.outcomes[mine, threshold] == RIGHT).cumsum(dtype=np.int64)
    return Curve(matches.scores[mine], right, int(matches.positives[label]))


def average_precisions(matches: Matches, how: Average) -> NDArray[np.float64]:
    """Return the average precision of each class at each IoU threshold, float64 [classes, thresholds]."""
    classes, thresholds = len(matches.positives), matches.outcomes.shape[1]
    return np.array([[curve(matches, c, t).average(how) for t in range(thresholds)] for c in range(classes)])


def mean_over_classes(values: NDArray[np.float64]) -> float:
    """Return the mean of the values that are numbers; NaN if there are none."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


@dataclass(frozen=True)
class DetectionCounts:
    """All that the scores of detection are made of; they are added with `+` or, if there are many, with `merged`.

    Attributes:
        voc: Matches at IoU 0.5 by VOC's rule.
        coco: Matches at IoU 0.5, 0.55, …, 0.95 by COCO's rule.
        images: Number of images.
    """

    voc: Matches
    coco: Matches
    images: int

    @staticmethod
    def zeros(num_classes: int) -> "DetectionCounts":
        """Return the counts of no images."""
        return DetectionCounts(Matches.zeros(num_classes, 1), Matches.zeros(num_classes, len(COCO_THRESHOLDS)), 0)

    @staticmethod
    def merged(parts: "list[DetectionCounts]") -> "DetectionCounts":
        """Return the sum of all parts, of which there is at least one."""
        voc, coco = Matches.merged(p.voc for p in parts), Matches.merged(p.coco for p in parts)
        return DetectionCounts(voc, coco, sum(p.images for p in parts))

    def __add__(self, other: "DetectionCounts") -> "DetectionCounts":
        return DetectionCounts.merged([self, other])

    @property
    def scores(self) -> "DetectionScores":
        """The scores of the counts."""
        coco = average_precisions(self.coco, "coco")
        with_boxes = self.coco.positives > 0
        return DetectionScores(
            voc07=average_precisions(self.voc, "voc07")[:, 0],
            voc10=average_precisions(self.voc, "voc10")[:, 0],
            coco=np.where(with_boxes, coco.mean(axis=1), np.nan),
            coco50=coco[:, 0],
            coco75=coco[:, COCO_THRESHOLDS.index(0.75)],
        )


@dataclass(frozen=True)
class DetectionScores:
    """Average precision of each class, float64 [classes], 0..1; NaN for a class without a box to be found.

    Attributes:
        voc07: 11-point average precision at IoU 0.5.
        voc10: Area under the curve at IoU 0.5.
        coco: AP@[.5:.95], the mean over ten IoU thresholds.
        coco50: COCO's average precision at IoU 0.5.
        coco75: COCO's average precision at IoU 0.75.
    """

    voc07: NDArray[np.float64]
    voc10: NDArray[np.float64]
    coco: NDArray[np.float64]
    coco50: NDArray[np.float64]
    coco75: NDArray[np.float64]

    @property
    def means(self) -> dict[str, float]:
        """The mean of each score over the classes, by its name."""
        return {name: mean_over_classes(getattr(self, name)) for name in ("voc07", "voc10", "coco", "coco50", "coco75")}


def count_detections(
    detections: Detections, truth: Truth, *, num_classes: int, order: int, pixel: int = 0
) -> DetectionCounts:
    """Count one image.

    Args:
        detections: Detections in the image.
        truth: True boxes of the image.
        num_classes: Number of classes.
        order: Position of the image in the data set, which decides between equal scores.
        pixel: 1 for VOC's own arithmetic, in which right and bottom are the last pixels inside the box; it concerns
            `voc` alone. See `pipeline.metrics.boxes`.
    """
    return DetectionCounts(
        match_voc(detections, truth, num_classes=num_classes, order=order, pixel=pixel),
        match_coco(detections, truth, num_classes=num_classes, order=order),
        1,
    )
