"""Scores of weakly supervised localization, as sums that shards can add up. numpy and scipy only.

Choe, Oh, Lee, Chun, Akata & Shim, "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020, and the
conventions of its released evaluator, so that numbers compare: maps in 0..1 are cut in 8 bits, a box has inclusive
corners, and the holes of a region count as regions of their own. (`boxes` has none of these.)
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.cam.boxes import EIGHT

IOUS = (0.3, 0.5, 0.7)
Regions = Literal["largest", "all"]


def thresholds(step: float) -> NDArray[np.float64]:
    """The evaluator's grid: 0, step, … below 1."""
    return np.arange(0.0, 1.0, step)


def region_boxes(heatmap: NDArray, threshold: float, *, regions: Regions) -> NDArray[np.int32]:
    """The evaluator's boxes of a map in 0..1 at a threshold.

    Args:
        heatmap: [height, width] in 0..1.
        threshold: share of the map's maximum.
        regions: "largest" (MaxBoxAcc) or "all", holes as well (MaxBoxAccV2).

    Returns:
        int32 [n, 4], inclusive left, top, right, bottom; a single box of zeros where nothing is above the threshold.
    """
    height, width = heatmap.shape
    grey = (heatmap * 255).astype(np.uint8)
    mask = grey > int(threshold * grey.max())
    parts, count = ndimage.label(mask, EIGHT)
    if count == 0:
        return np.zeros((1, 4), np.int32)
    found = [_inclusive(place, width, height) for place in ndimage.find_objects(parts)]
    if regions == "largest":
        areas = [_contour_area(parts[place] == i) for i, place in enumerate(ndimage.find_objects(parts), start=1)]
        return np.array([found[int(np.argmax(areas))]], np.int32)
    for place in ndimage.find_objects(ndimage.label(_holes(mask))[0]):
        # A hole's contour runs on the pixels around it.
        rows, columns = place
        wider = (slice(rows.start - 1, rows.stop + 1), slice(columns.start - 1, columns.stop + 1))
        found.append(_inclusive(wider, width, height))
    return np.array(found, np.int32)


def _inclusive(place: tuple[slice, slice], width: int, height: int) -> tuple[int, int, int, int]:
    """The evaluator's corners: one beyond the last pixel, unless that lies outside."""
    rows, columns = place
    return columns.start, rows.start, min(columns.stop, width - 1), min(rows.stop, height - 1)


def _holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return ndimage.binary_fill_holes(mask) & ~mask


def _contour_area(part: NDArray[np.bool_]) -> float:
    """The area within a part's outer contour, a polygon through pixel centres: Pick's theorem."""
    filled = ndimage.binary_fill_holes(np.pad(part, 1))
    border = filled & ~ndimage.binary_erosion(filled)
    return float(filled.sum()) - border.sum() / 2 - 1


def box_iou(boxes: NDArray, others: NDArray) -> NDArray[np.float64]:
    """IoU with inclusive corners of each box with each other, [n, m]."""
    a, b = np.asarray(boxes, np.float64)[:, None], np.asarray(others, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1
    both = sides.clip(min=0).prod(axis=-1)
    areas = [(c[..., 2:] - c[..., :2] + 1).prod(axis=-1) for c in (a, b)]
    return both / (areas[0] + areas[1] - both)


def resized_box(box: NDArray, size: tuple[int, int], to: tuple[int, int]) -> NDArray[np.int32]:
    """Boxes [n, 4] of an image of a size (width, height) in one of another; coordinates are cut, not rounded."""
    scale = np.array([to[0] / size[0], to[1] / size[1]] * 2)
    return (np.asarray(box) * scale).astype(np.int32)


@dataclass(frozen=True)
class BoxHits:
    """How many images have a box that fits, at each threshold and IoU; add them with `+`.

    Attributes:
        known: int64 [thresholds, IoUs], with the map of the true class (GT-known).
        top1, top5: those of them whose class is the first, or one of the first five, that the classifier names.
        images: that were counted.
    """

    known: NDArray[np.int64]
    top1: NDArray[np.int64]
    top5: NDArray[np.int64]
    images: int

    @staticmethod
    def zeros(steps: int, ious: int = len(IOUS)) -> "BoxHits":
        known, top1, top5 = (np.zeros((steps, ious), np.int64) for _ in range(3))
        return BoxHits(known, top1, top5, 0)

    def __add__(self, other: "BoxHits") -> "BoxHits":
        return BoxHits(
            self.known + other.known, self.top1 + other.top1, self.top5 + other.top5, self.images + other.images
        )

    def accuracy(self, which: Literal["known", "top1", "top5"] = "known") -> NDArray[np.float64]:
        """Shares of images, [thresholds, IoUs]."""
        return getattr(self, which) / max(self.images, 1)

    def best(self, iou_index: int) -> int:
        """The threshold (its index) of most hits at an IoU: to be chosen on one split and applied to another."""
        return int(self.known[:, iou_index].argmax())

    @property
    def max_box_acc(self) -> float:
        """MaxBoxAcc of the middle IoU (0.5): one threshold for the whole set."""
        return float(self.accuracy().max(axis=0)[self.known.shape[1] // 2])

    @property
    def max_box_acc_v2(self) -> float:
        """MaxBoxAccV2: the mean over IoUs, each at its own best threshold."""
        return float(self.accuracy().max(axis=0).mean())


def best_ious(heatmap: NDArray, truth: NDArray, *, steps: NDArray[np.float64], regions: Regions) -> NDArray[np.float64]:
    """The largest IoU of an image's boxes with the true ones at each threshold: all that its box scores need.

    Args:
        heatmap: [height, width] in 0..1, of the true class.
        truth: int [n, 4], inclusive boxes in the map's frame.
        steps: thresholds.
        regions: see `region_boxes`.
    """
    return np.array([box_iou(region_boxes(heatmap, t, regions=regions), truth).max() for t in steps])


def box_hits(best: NDArray, ranks: NDArray, ious: tuple[float, ...] = IOUS) -> BoxHits:
    """What some images add.

    Args:
        best: [images, thresholds], of `best_ious`.
        ranks: int [images], of the true class among the classifier's scores, from 0.
        ious: at which a box fits.
    """
    fits = best[:, :, None] >= np.array(ious)
    known, top1, top5 = (fits[ranks < worst].sum(axis=0, dtype=np.int64) for worst in (np.inf, 1, 5))
    return BoxHits(known, top1, top5, len(best))


@dataclass(frozen=True)
class PixelHits:
    """Histograms of map values over foreground and background pixels; add them with `+`."""

    foreground: NDArray[np.int64]
    background: NDArray[np.int64]

    @staticmethod
    def zeros(steps: int) -> "PixelHits":
        return PixelHits(*(np.zeros(steps + 2, np.int64) for _ in range(2)))

    def __add__(self, other: "PixelHits") -> "PixelHits":
        return PixelHits(self.foreground + other.foreground, self.background + other.background)

    @property
    def px_ap(self) -> float:
        """PxAP: the area under precision and recall of pixels over thresholds.

        Raises:
            ValueError: no pixel is foreground.
        """
        if not self.foreground.any():
            raise ValueError("PxAP is undefined: the ground truth has no foreground pixel")
        hits, wrong = self.foreground[::-1].cumsum(), self.background[::-1].cumsum()
        precision = hits / np.maximum(hits + wrong, 1)
        recall = hits / hits[-1]
        return float((precision * np.diff(recall, prepend=0.0)).sum())


def pixel_hits(heatmap: NDArray, truth: NDArray, *, steps: NDArray[np.float64], ignore: int = 255) -> PixelHits:
    """What one image adds.

    Args:
        heatmap: [height, width] in 0..1.
        truth: [height, width]: 1 foreground, 0 background, `ignore` neither.
        steps: thresholds.
        ignore: value of pixels that count nowhere.
    """
    edges = np.append(steps, [1.0, 2.0, 3.0])  # exactly 1 has a bin of its own
    parts = [np.histogram(heatmap[truth == value], edges)[0].astype(np.int64) for value in (1, 0)]
    return PixelHits(*parts)


def centre_boxes(width: int, height: int, steps: NDArray[np.float64]) -> NDArray[np.int32]:
    """The baseline that knows nothing: a centred box of each share 1 - threshold of the sides, inclusive corners."""
    shares = 1 - steps
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = np.stack([x - x * shares, y - y * shares, x + x * shares, y + y * shares], axis=1)
    return np.round(corners).astype(np.int32)


def centre_ious(width: int, height: int, truth: NDArray, *, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """`best_ious` of the centred box."""
    return box_iou(centre_boxes(width, height, steps), truth).max(axis=1)
