"""From a map to boxes and masks. numpy and scipy only.

Boxes are int32 [n, 4]: left, top, right, bottom in pixels, the latter two exclusive, within the map.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

EIGHT = np.ones((3, 3), bool)  # diagonal neighbours are connected, as in OpenCV's contours
LEVELS = (20, 100, 110)  # of 255, in the released code of the CAM paper
RIM = 10  # of 255 of the distance from the border that is cut away there

BoxArray = NDArray[np.int32]


def mask_above(heatmap: NDArray, threshold: float) -> NDArray[np.bool_]:
    """Where a map [height, width] is at least a share of its maximum; nowhere in a map without a positive value."""
    largest = float(heatmap.max()) if heatmap.size else 0.0
    if not largest > 0:
        return np.zeros(heatmap.shape, bool)
    return heatmap >= threshold * largest


def component_boxes(mask: NDArray[np.bool_]) -> tuple[BoxArray, NDArray[np.int64]]:
    """The boxes of a mask's connected parts, the largest first, and their pixels."""
    parts, count = ndimage.label(mask, EIGHT)
    if count == 0:
        return np.zeros((0, 4), np.int32), np.zeros(0, np.int64)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    places = ndimage.find_objects(parts)
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in places], np.int32)
    order = np.argsort(-sizes, kind="stable")
    return boxes[order], sizes[order]


def largest_box(heatmap: NDArray, *, threshold: float = 0.2) -> BoxArray:
    """The CAM paper's box (Zhou et al., section 3.2): around the largest connected part above 20% of the maximum.

    Args:
        heatmap: [height, width], of any scale.
        threshold: share of the maximum.

    Returns:
        One box, or none for a map without a positive value.
    """
    return component_boxes(mask_above(heatmap, threshold))[0][:1]


def all_boxes(heatmap: NDArray, *, threshold: float = 0.2, min_share: float = 0.0) -> BoxArray:
    """The boxes of all connected parts above a share of the maximum, the largest first.

    Args:
        heatmap: [height, width], of any scale.
        threshold: share of the maximum.
        min_share: parts with less than this share of the largest part's pixels are left out.
    """
    boxes, sizes = component_boxes(mask_above(heatmap, threshold))
    return boxes[sizes >= min_share * sizes[:1].sum()]


def distance_boxes(heatmap: NDArray) -> BoxArray:
    """The released code's boxes: of three levels, without their rims, the largest first, without overlapping ones.

    At 20, 100 and 110 of 255 the map is cut, and of each cut what lies within 10 of 255 of its largest distance from
    the border is taken away, which separates parts that touch. A box that a larger one covers by more than half is
    dropped.
    """
    found: list[tuple[int, NDArray]] = []
    for level in LEVELS:
        mask = mask_above(heatmap, level / 255)
        if not mask.any():
            continue
        # Beyond the border of the map there is nothing to keep a distance from.
        distance = ndimage.distance_transform_edt(mask) if not mask.all() else np.ones(mask.shape)
        boxes, _ = component_boxes(distance * 255 / distance.max() > RIM)
        found += [(int((b[2] - b[0]) * (b[3] - b[1])), b) for b in boxes]
    kept: list[NDArray] = []
    for _, box in sorted(found, key=lambda item: -item[0]):
        if all(_covered(box, other) <= 0.5 for other in kept):
            kept.append(box)
    return np.array(kept, np.int32).reshape(-1, 4)


def _covered(box: NDArray, other: NDArray) -> float:
    """The share of the smaller of two boxes that the other covers."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return max(int(width), 0) * max(int(height), 0) / int(smaller)
