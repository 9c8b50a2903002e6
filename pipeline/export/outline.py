"""Outlines of regions along the edges of their pixels, as polygons with whole-numbered corners."""

import numpy as np
from numpy.typing import NDArray

# Directions of an edge: right, down, left, up; the next one in this order is a turn to the right.
_RIGHT, _DOWN, _LEFT, _UP = range(4)
Corner = tuple[int, int]


def rings(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the outlines of a region: those of its outside clockwise, those of its holes counter-clockwise.

    Where pixels touch in a corner only, the outline keeps them apart.

    Args:
        mask: The region, bool [height, width].

    Returns:
        The corners (x, y) of each ring, int64 [corners, 2], without the first one again.
    """
    ends: dict[tuple[Corner, int], Corner] = {}
    padded = np.pad(mask, 1).astype(np.int8)
    # The region lies to the right of an edge: below an edge to the right, above one to the left.
    for direction, (start, end) in _straight_edges(np.diff(padded, axis=0)[:, 1:-1], _RIGHT, _LEFT):
        ends[start, direction] = end
    # A column's edge goes up where the region begins (it lies to the right), and down where it ends.
    for direction, (start, end) in _straight_edges(np.diff(padded, axis=1)[1:-1].T, _UP, _DOWN):
        ends[start[::-1], direction] = end[::-1]
    found = []
    while ends:
        (corner, direction), _ = first = next(iter(ends.items()))
        ring = []
        while (corner, direction) in ends:
            ring.append(corner)
            corner = ends.pop((corner, direction))
            right, left = (direction + 1) % 4, (direction - 1) % 4
            direction = right if (corner, right) in ends or (corner, right) == first[0] else left
        found.append(np.array(ring))
    return found


def _straight_edges(steps: NDArray[np.int8], rising: int, falling: int) -> list[tuple[int, tuple[Corner, Corner]]]:
    """Return the longest straight edges along the rows of `steps`, with their directions.

    Args:
        steps: 1 where the region begins beyond the line, -1 where it ends, else 0; int8 [lines, length].
        rising: Direction of an edge of steps of 1.
        falling: Direction of an edge of steps of -1.
    """
    found = []
    for value, direction in ((1, rising), (-1, falling)):
        flags = np.pad((steps == value).astype(np.int8), ((0, 0), (1, 1)))
        change = np.diff(flags, axis=1)
        lines, begins = np.nonzero(change == 1)
        _, stops = np.nonzero(change == -1)
        for line, begin, stop in zip(lines.tolist(), begins.tolist(), stops.tolist(), strict=True):
            low, high = (begin, line), (stop, line)
            found.append((direction, (low, high) if direction in (_RIGHT, _DOWN) else (high, low)))
    return found


def polygon(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return a connected region as one polygon, whose holes are joined to its outline by lines there and back.

    By the rule of odd and even crossings, such a line encloses nothing, so the polygon is the region exactly.

    Returns:
        Corners (x, y), int64 [corners, 2].
    """
    outer, *holes = sorted(rings(mask), key=_signed_area, reverse=True)
    for hole in holes:
        # The corner of the outline that is nearest to the hole's first one, in the Manhattan distance.
        at = int(np.abs(outer - hole[0]).sum(axis=1).argmin())
        outer = np.concatenate([outer[: at + 1], hole, hole[:1], outer[at:]])
    return outer


def _signed_area(ring: NDArray[np.int64]) -> int:
    """Return the area in a ring, positive if it is clockwise (y points down)."""
    x, y = ring.T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2
