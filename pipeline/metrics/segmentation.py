"""Segmentation scores from one int64 confusion matrix over a whole data set.

Published mIoU figures differ in their treatment of absent classes and invalid pixels (docs/decisions.md). Here every
pixel is counted exactly once: as scored, ignored, or invalid.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Confusion:
    """Pixel counts of one or more images; they are added with `+` or `sum(…, Confusion.zeros(k))`.

    Attributes:
        matrix: Scored pixels by ground truth (row) and prediction (column), int64 [classes, classes].
        ignored: Pixels labelled with the ignore index.
        invalid_label: Pixels labelled with neither a class nor the ignore index.
        invalid_prediction: Pixels labelled with a class whose prediction is no class.
    """

    matrix: NDArray[np.int64]
    ignored: int = 0
    invalid_label: int = 0
    invalid_prediction: int = 0

    @staticmethod
    def zeros(num_classes: int) -> "Confusion":
        """Return the counts of no images."""
        return Confusion(np.zeros((num_classes, num_classes), np.int64))

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(
            self.matrix + other.matrix,
            self.ignored + other.ignored,
            self.invalid_label + other.invalid_label,
            self.invalid_prediction + other.invalid_prediction,
        )

    @property
    def scores(self) -> "Scores":
        """The scores of the matrix."""
        return scores(self.matrix)


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix, each in 0..1, or NaN if it is undefined because no pixel counts.

    For each class, gt, pred and tp are the numbers of pixels in the ground truth, in the prediction, and in both.

    Attributes:
        iou: tp / (gt + pred - tp), float64 [classes]; NaN for a class in neither ground truth nor prediction.
        accuracy: tp / gt, float64 [classes]; NaN for a class that is not in the ground truth.
        miou: Mean IoU over the classes in ground truth or prediction, the headline score.
        miou_gt_only: Mean IoU over the classes in the ground truth, as in detectron2.
        pixel_accuracy: Share of correct pixels, as in FCN (Long et al. 2015, section 5).
        mean_accuracy: Mean accuracy over the classes in the ground truth, as in FCN.
        fwiou: Mean IoU weighted by gt, as in FCN.
    """

    iou: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    miou: float
    miou_gt_only: float
    pixel_accuracy: float
    mean_accuracy: float
    fwiou: float


def confusion(labels: NDArray, predictions: NDArray, *, num_classes: int, ignore_index: int) -> Confusion:
    """Count one image (or any number of pixels).

    Args:
        labels: Integers of any shape: 0..num_classes-1 or `ignore_index`; other values are invalid.
        predictions: Integers of the same shape.
        num_classes: Number of classes.
        ignore_index: Label of ignored pixels; not one of 0..num_classes-1.

    Raises:
        ValueError: The shapes differ, or the ignore index is a class.
    """
    if labels.shape != predictions.shape:
        raise ValueError(f"labels are {labels.shape}, predictions {predictions.shape}")
    if 0 <= ignore_index < num_classes:
        raise ValueError(f"ignore index {ignore_index} is one of the classes 0..{num_classes - 1}")
    labels = labels.astype(np.int64, copy=False).ravel()
    predictions = predictions.astype(np.int64, copy=False).ravel()
    ignored = labels == ignore_index
    is_class = (labels >= 0) & (labels < num_classes)
    predicted = (predictions >= 0) & (predictions < num_classes)
    scored = is_class & predicted
    pairs = labels[scored] * num_classes + predictions[scored]
    matrix = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return Confusion(
        matrix.astype(np.int64, copy=False),
        ignored=int(ignored.sum()),
        invalid_label=int((~is_class & ~ignored).sum()),
        invalid_prediction=int((is_class & ~predicted).sum()),
    )


def scores(matrix: NDArray) -> Scores:
    """Compute the scores of a confusion matrix, int64 [classes, classes]; rows are ground truth, columns prediction."""
    tp = np.diag(matrix).astype(np.float64)
    gt = matrix.sum(axis=1).astype(np.float64)
    predicted = matrix.sum(axis=0).astype(np.float64)
    union = gt + predicted - tp
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = np.where(union > 0, tp / union, np.nan)
        accuracy = np.where(gt > 0, tp / gt, np.nan)
    total = gt.sum()
    return Scores(
        iou=iou,
        accuracy=accuracy,
        miou=_mean(iou),
        miou_gt_only=_mean(iou[gt > 0]),
        pixel_accuracy=float(tp.sum() / total) if total else float("nan"),
        mean_accuracy=_mean(accuracy),
        fwiou=float((gt[gt > 0] * iou[gt > 0]).sum() / total) if total else float("nan"),
    )


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
