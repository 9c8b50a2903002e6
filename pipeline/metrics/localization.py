"""Scores of weakly supervised localization, as sums that can be added over shards.

The scores are those of Choe, Oh, Lee, Chun, Akata & Shim, "Evaluating Weakly Supervised Object Localization Methods
Right", CVPR 2020. They follow the conventions of its released evaluator, so that they are comparable with published
figures: maps in 0..1 are thresholded in 8 bits, boxes have inclusive corners, and a hole of a region counts as another
region. The boxes of `pipeline.cam.boxes` follow none of these conventions.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.metrics.boxes import pairwise_iou

EIGHT_CONNECTED = ndimage.generate_binary_structure(2, 2)  # diagonal neighbours are connected, as in OpenCV's contours
IOUS = (0.3, 0.5, 0.7)
COVERED = 0.2  # share of a map's range from which it shows the object (Zhou et al., CVPR 2016, section 3.2)
Regions = Literal["largest", "all"]


def thresholds(step: float) -> NDArray[np.float64]:
    """Return the evaluator's thresholds: 0, step, 2 step, … below 1."""
    return np.arange(0.0, 1.0, step)


def region_boxes(heatmap: NDArray, threshold: float, *, regions: Regions) -> NDArray[np.int32]:
    """Return the evaluator's boxes of a map at a threshold.

    Args:
        heatmap: Map [height, width] in 0..1.
        threshold: Threshold as a share of the map's maximum.
        regions: "largest" region (MaxBoxAcc), or "all" regions and holes (MaxBoxAccV2).

    Returns:
        int32 [n, 4] of inclusive left, top, right, bottom; one box of zeros if nothing is above the threshold.
    """
    height, width = heatmap.shape
    grey = (heatmap * 255).astype(np.uint8)
    mask = grey > int(threshold * grey.max())
    components, count = ndimage.label(mask, EIGHT_CONNECTED)
    if count == 0:
        return np.zeros((1, 4), np.int32)
    slices = ndimage.find_objects(components)
    boxes = [_inclusive_box(rows, columns, width, height) for rows, columns in slices]
    if regions == "largest":
        areas = [_contour_area(components[region] == i) for i, region in enumerate(slices, start=1)]
        return np.array([boxes[int(np.argmax(areas))]], np.int32)
    for rows, columns in ndimage.find_objects(ndimage.label(_holes(mask))[0]):
        # The contour of a hole consists of the pixels around it.
        rows, columns = slice(rows.start - 1, rows.stop + 1), slice(columns.start - 1, columns.stop + 1)
        boxes.append(_inclusive_box(rows, columns, width, height))
    return np.array(boxes, np.int32)


def _inclusive_box(rows: slice, columns: slice, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the evaluator's corners: right and bottom are one beyond the last pixel, if the map reaches that far."""
    return columns.start, rows.start, min(columns.stop, width - 1), min(rows.stop, height - 1)


def _holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return ndimage.binary_fill_holes(mask) & ~mask


def _contour_area(region: NDArray[np.bool_]) -> float:
    """Compute the area within a region's outer contour, a polygon through pixel centres, by Pick's theorem."""
    filled = ndimage.binary_fill_holes(np.pad(region, 1))
    border = filled & ~ndimage.binary_erosion(filled)
    return float(filled.sum()) - border.sum() / 2 - 1


def resized_box(boxes: NDArray, size: tuple[int, int], to: tuple[int, int]) -> NDArray[np.int32]:
    """Scale boxes from one image size to another; coordinates are truncated, not rounded.

    Args:
        boxes: Boxes [n, 4].
        size: Width, height of the image of the boxes.
        to: Width, height of the image of the result.
    """
    scale = np.array([to[0] / size[0], to[1] / size[1]] * 2)
    return (np.asarray(boxes) * scale).astype(np.int32)


@dataclass(frozen=True)
class BoxHits:
    """Numbers of images with a correct box at each threshold and IoU; they are added with `+`.

    Attributes:
        known: Images with a correct box from the map of the true class (GT-known), int64 [thresholds, IoUs].
        top1: Those of `known` in which the true class has the largest score.
        top5: Those of `known` in which the true class has one of the five largest scores.
        images: Number of images.
    """

    known: NDArray[np.int64]
    top1: NDArray[np.int64]
    top5: NDArray[np.int64]
    images: int

    @staticmethod
    def zeros(steps: int, ious: int = len(IOUS)) -> "BoxHits":
        """Return the counts of no images, for a number of thresholds and IoUs."""
        known, top1, top5 = (np.zeros((steps, ious), np.int64) for _ in range(3))
        return BoxHits(known, top1, top5, 0)

    def __add__(self, other: "BoxHits") -> "BoxHits":
        return BoxHits(
            self.known + other.known, self.top1 + other.top1, self.top5 + other.top5, self.images + other.images
        )

    def accuracy(self, which: Literal["known", "top1", "top5"] = "known") -> NDArray[np.float64]:
        """Return the counts as shares of the images, [thresholds, IoUs]."""
        return getattr(self, which) / max(self.images, 1)

    def best(self, iou_index: int) -> int:
        """Return the index of the threshold with the most hits at an IoU, to choose it on one split for another."""
        return int(self.known[:, iou_index].argmax())

    @property
    def max_box_acc(self) -> float:
        """MaxBoxAcc: the accuracy at the middle IoU (0.5), at the best threshold for the whole data set."""
        return float(self.accuracy().max(axis=0)[self.known.shape[1] // 2])

    @property
    def max_box_acc_v2(self) -> float:
        """MaxBoxAccV2: the mean of the accuracies at each IoU, each at its best threshold."""
        return float(self.accuracy().max(axis=0).mean())


def best_ious(heatmap: NDArray, truth: NDArray, *, steps: NDArray[np.float64], regions: Regions) -> NDArray[np.float64]:
    """Compute the largest IoU of an image's boxes with the true boxes at each threshold, from which `box_hits` counts.

    Args:
        heatmap: Map of the true class, [height, width] in 0..1.
        truth: True boxes with inclusive corners in pixels of the map, int [n, 4].
        steps: Thresholds.
        regions: See `region_boxes`.
    """
    return np.array([pairwise_iou(region_boxes(heatmap, t, regions=regions), truth, pixel=1).max() for t in steps])


def box_coverage(heatmap: NDArray, truth: NDArray, *, threshold: float = COVERED) -> float:
    """Return the share of the pixels within true boxes at which a map is at least a threshold.

    Zhou et al. (CVPR 2016, section 2) argue that global average pooling makes a network find the whole object and
    global max pooling only its most telling part: then this share is larger with the former.

    Args:
        heatmap: Map in 0..1, [h, w].
        truth: True boxes, int [n, 4] of left, top, right, bottom, inclusive and within the map; n is at least 1.
        threshold: Threshold.
    """
    inside = np.zeros(heatmap.shape, bool)
    for left, top, right, bottom in truth:
        inside[top : bottom + 1, left : right + 1] = True
    return float((heatmap[inside] >= threshold).mean())


def box_hits(best: NDArray, ranks: NDArray, ious: tuple[float, ...] = IOUS) -> BoxHits:
    """Count the images with a correct box.

    Args:
        best: Largest IoUs of each image from `best_ious`, [images, thresholds].
        ranks: Rank of each image's true class among the classifier's scores, int [images], starting at 0.
        ious: Smallest IoUs of a correct box.
    """
    correct = best[:, :, None] >= np.array(ious)
    known, top1, top5 = (correct[ranks < limit].sum(axis=0, dtype=np.int64) for limit in (np.inf, 1, 5))
    return BoxHits(known, top1, top5, len(best))


@dataclass(frozen=True)
class PixelHits:
    """Histograms of map values over foreground and background pixels; they are added with `+`."""

    foreground: NDArray[np.int64]
    background: NDArray[np.int64]

    @staticmethod
    def zeros(steps: int) -> "PixelHits":
        """Return the histograms of no images, for a number of thresholds."""
        return PixelHits(*(np.zeros(steps + 2, np.int64) for _ in range(2)))

    def __add__(self, other: "PixelHits") -> "PixelHits":
        return PixelHits(self.foreground + other.foreground, self.background + other.background)

    @property
    def px_ap(self) -> float:
        """PxAP: the area under the curve of pixel precision over recall.

        Raises:
            ValueError: No pixel is foreground.
        """
        if not self.foreground.any():
            raise ValueError("PxAP is undefined: the ground truth has no foreground pixel")
        hits, wrong = self.foreground[::-1].cumsum(), self.background[::-1].cumsum()
        precision = hits / np.maximum(hits + wrong, 1)
        recall = hits / hits[-1]
        return float((precision * np.diff(recall, prepend=0.0)).sum())


def pixel_hits(heatmap: NDArray, truth: NDArray, *, steps: NDArray[np.float64]) -> PixelHits:
    """Count the map values of one image.

    Args:
        heatmap: Map [height, width] in 0..1.
        truth: Ground truth [height, width]: 1 for foreground, 0 for background; pixels with other values are ignored.
        steps: Thresholds.
    """
    edges = np.append(steps, [1.0, 2.0, 3.0])  # the value 1 has a bin for itself
    histograms = [np.histogram(heatmap[truth == value], edges)[0].astype(np.int64) for value in (1, 0)]
    return PixelHits(*histograms)


def centre_boxes(width: int, height: int, steps: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return a box in the image's centre for each threshold, a baseline whose sides are 1 - threshold of the image's.

    Returns:
        int32 [thresholds, 4] of inclusive left, top, right, bottom.
    """
    shares = 1 - steps
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = np.stack([x - x * shares, y - y * shares, x + x * shares, y + y * shares], axis=1)
    return np.round(corners).astype(np.int32)


def centre_ious(width: int, height: int, truth: NDArray, *, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the largest IoU of the centred box with the true boxes at each threshold, as in `best_ious`."""
    return pairwise_iou(centre_boxes(width, height, steps), truth, pixel=1).max(axis=1)
