"""Recall of object proposals: an upper bound of the recall of detectors that classify them.

Hosang, Benenson, Dollár & Schiele, "What Makes for Effective Detection Proposals?", PAMI 2016: the share of the true
boxes for which one of the first n proposals has at least a given IoU.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.boxes import pairwise_iou
from pipeline.metrics.matching import Truth

IOUS = (0.5, 0.7)
BUDGETS = (1, 3, 10, 30, 100, 300, 1000, 2000, 3000, 10_000)


@dataclass(frozen=True)
class ProposalRecall:
    """Numbers of true boxes that proposals cover; they are added with `+`.

    Attributes:
        found: Boxes covered by one of the first n proposals of an image, by IoU and n, int64 [IoUs, budgets].
        positives: Number of true boxes, without those that are difficult or crowds.
        proposals: Number of proposals.
        images: Number of images.
        without_proposals: Number of images without a proposal.
    """

    found: NDArray[np.int64]
    positives: int
    proposals: int
    images: int
    without_proposals: int

    @staticmethod
    def zeros(ious: int = len(IOUS), budgets: int = len(BUDGETS)) -> "ProposalRecall":
        """Return the counts of no images."""
        return ProposalRecall(np.zeros((ious, budgets), np.int64), 0, 0, 0, 0)

    def __add__(self, other: "ProposalRecall") -> "ProposalRecall":
        return ProposalRecall(
            self.found + other.found,
            self.positives + other.positives,
            self.proposals + other.proposals,
            self.images + other.images,
            self.without_proposals + other.without_proposals,
        )

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of the true boxes that are covered, float64 [IoUs, budgets]; NaN if there are no boxes."""
        return self.found / self.positives if self.positives else np.full(self.found.shape, np.nan)


def count_proposals(
    proposals: NDArray, truth: Truth, *, ious: tuple[float, ...] = IOUS, budgets: tuple[int, ...] = BUDGETS
) -> ProposalRecall:
    """Count one image.

    Args:
        proposals: Boxes [n, 4] of left, top, right, bottom, the best first.
        truth: True boxes of the image.
        ious: Smallest IoUs of a proposal that covers a box.
        budgets: Numbers of proposals.
    """
    boxes = np.asarray(proposals, np.float64).reshape(-1, 4)
    wanted = truth.boxes[~truth.ignored]
    overlaps = pairwise_iou(boxes, wanted)
    best = [overlaps[:n].max(axis=0, initial=0) for n in budgets]
    found = np.array([[(b >= iou).sum() for b in best] for iou in ious], np.int64)
    return ProposalRecall(found, len(wanted), len(boxes), 1, int(len(boxes) == 0))
