"""Segmentation scores from one int64 confusion matrix over a whole data set. numpy only.

Published mIoU figures differ in what they do with absent classes and invalid pixels (docs/decisions.md);
here every pixel is counted once: scored, ignored, or invalid.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Confusion:
    """Pixel counts of one or more images; add them with `+` or `sum(…, Confusion.zeros(k))`.

    Attributes:
        matrix: int64 [classes, classes]; row ground truth, column prediction.
        ignored: pixels whose label is the ignore index.
        invalid_label: pixels whose label is neither a class nor the ignore index.
        invalid_prediction: pixels with a valid label whose prediction is no class.
    """

    matrix: NDArray[np.int64]
    ignored: int = 0
    invalid_label: int = 0
    invalid_prediction: int = 0

    @staticmethod
    def zeros(num_classes: int) -> "Confusion":
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
        return scores(self.matrix)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; each in 0..1, NaN where it is undefined (nothing counted).

    Attributes:
        iou: float64 [classes], tp / (gt + pred - tp); NaN for a class in neither.
        accuracy: float64 [classes], tp / gt; NaN for a class not in the ground truth.
        miou: mean IoU over classes present in ground truth or prediction: the headline.
        miou_gt_only: mean IoU over classes present in the ground truth (detectron2's choice).
        pixel_accuracy, mean_accuracy, fwiou: as in FCN (Long et al. 2015, section 5).
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
        labels: integers of any shape; 0..num_classes-1, `ignore_index`, anything else is invalid.
        predictions: integers of the same shape.
        num_classes: K.
        ignore_index: label left out of every score; outside 0..K-1.

    Raises:
        ValueError: shapes differ, or the ignore index is a class.
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
    """Scores of a confusion matrix, int64 [classes, classes], row ground truth, column prediction."""
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
