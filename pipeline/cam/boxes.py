"""Boxes and masks from class activation maps.

Boxes are int32 [n, 4] of left, top, right, bottom in pixels within the map, with right and bottom exclusive.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

EIGHT_CONNECTED = ndimage.generate_binary_structure(2, 2)  # diagonal neighbours are connected, as in OpenCV's contours
# Constants of the CAM paper's released code, of 255.
LEVELS = (20, 100, 110)  # thresholds of the map
RIM = 10  # largest distance from the border that is cut away, where the largest distance is 255

BoxArray = NDArray[np.int32]


def mask_above(heatmap: NDArray, threshold: float) -> NDArray[np.bool_]:
    """Return where a map [height, width] is at least a share of its maximum: nowhere if no value is positive."""
    largest = float(heatmap.max()) if heatmap.size else 0.0
    if not largest > 0:
        return np.zeros(heatmap.shape, bool)
    return heatmap >= threshold * largest


def component_boxes(mask: NDArray[np.bool_]) -> tuple[BoxArray, NDArray[np.int64]]:
    """Return the boxes of a mask's connected components, the largest component first, and their numbers of pixels."""
    components, count = ndimage.label(mask, EIGHT_CONNECTED)
    if count == 0:
        return np.zeros((0, 4), np.int32), np.zeros(0, np.int64)
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    slices = ndimage.find_objects(components)
    boxes = np.array([(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in slices], np.int32)
    order = np.argsort(-sizes, kind="stable")
    return boxes[order], sizes[order]


def largest_box(heatmap: NDArray, *, threshold: float = 0.2) -> BoxArray:
    """Return the CAM paper's box (Zhou et al., section 3.2), around the largest component above 20% of the maximum.

    Args:
        heatmap: Map [height, width]; its scale does not matter.
        threshold: Threshold as a share of the maximum.

    Returns:
        One box, or none for a map without a positive value.
    """
    return component_boxes(mask_above(heatmap, threshold))[0][:1]


def all_boxes(heatmap: NDArray, *, threshold: float = 0.2, min_share: float = 0.0) -> BoxArray:
    """Return the boxes of all connected components above a share of the maximum, the largest component first.

    Args:
        heatmap: Map [height, width]; its scale does not matter.
        threshold: Threshold as a share of the maximum.
        min_share: Components with less than this share of the largest component's pixels are left out.
    """
    boxes, sizes = component_boxes(mask_above(heatmap, threshold))
    return boxes[sizes >= min_share * sizes[:1].sum()]


def distance_boxes(heatmap: NDArray) -> BoxArray:
    """Return the boxes of the CAM paper's released code, the largest first.

    The map is thresholded at 20, 100 and 110 of 255. From each mask, the pixels whose distance from the border is at
    most 10/255 of the largest distance are removed, which separates components that touch. A box of which a larger box
    covers more than half is dropped.
    """
    found: list[tuple[int, NDArray]] = []
    for level in LEVELS:
        mask = mask_above(heatmap, level / 255)
        if not mask.any():
            continue
        # A mask without background has no border from which to measure a distance.
        distance = ndimage.distance_transform_edt(mask) if not mask.all() else np.ones(mask.shape)
        boxes, _ = component_boxes(distance * 255 / distance.max() > RIM)
        found += [(int((b[2] - b[0]) * (b[3] - b[1])), b) for b in boxes]
    kept: list[NDArray] = []
    for _, box in sorted(found, key=lambda item: -item[0]):
        if all(_covered(box, other) <= 0.5 for other in kept):
            kept.append(box)
    return np.array(kept, np.int32).reshape(-1, 4)


def _covered(box: NDArray, other: NDArray) -> float:
    """Return the intersection of two boxes as a share of the smaller one."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return max(int(width), 0) * max(int(height), 0) / int(smaller)
