"""Overlap of boxes.

Boxes are [n, 4] of left, top, right, bottom. With `pixel` 0 the corners are points of the plane, so right and bottom
are exclusive in pixels, as everywhere in this project and in COCO. With `pixel` 1 they are the first and last pixels
inside the box, as in the VOC development kit, and a side is right - left + 1.
"""

import numpy as np
from numpy.typing import NDArray


def box_sides(boxes: NDArray, *, pixel: int = 0) -> NDArray[np.float64]:
    """Return the widths and heights of boxes [..., 4], float64 [..., 2]; the sides of swapped corners are 0."""
    corners = np.asarray(boxes, np.float64)
    return (corners[..., 2:] - corners[..., :2] + pixel).clip(min=0)


def box_areas(boxes: NDArray, *, pixel: int = 0) -> NDArray[np.float64]:
    """Return the areas of boxes [..., 4], float64 [...]."""
    return box_sides(boxes, pixel=pixel).prod(axis=-1)


def intersections(boxes: NDArray, others: NDArray, *, pixel: int = 0) -> NDArray[np.float64]:
    """Return the areas of the intersections of all pairs of boxes [n, 4] and [m, 4], float64 [n, m]."""
    a, b = np.asarray(boxes, np.float64)[:, None], np.asarray(others, np.float64)[None]
    corners = np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1)
    return box_areas(corners, pixel=pixel)


def pairwise_iou(boxes: NDArray, others: NDArray, *, pixel: int = 0) -> NDArray[np.float64]:
    """Return the IoU of all pairs of boxes [n, 4] and [m, 4], float64 [n, m]; 0 if the union is empty."""
    common = intersections(boxes, others, pixel=pixel)
    union = box_areas(boxes, pixel=pixel)[:, None] + box_areas(others, pixel=pixel)[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def covered_shares(boxes: NDArray, regions: NDArray, *, pixel: int = 0) -> NDArray[np.float64]:
    """Return the share of each box [n, 4] that each region [m, 4] covers, float64 [n, m]; 0 for an empty box."""
    common = intersections(boxes, regions, pixel=pixel)
    areas = np.broadcast_to(box_areas(boxes, pixel=pixel)[:, None], common.shape)
    return np.divide(common, areas, out=np.zeros_like(common), where=areas > 0)
