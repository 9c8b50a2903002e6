"""Class scores as rows: a pixel's classes beside each other, padded to whole vectors."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.crf.lanes import aligned, load, logarithm, poke, store
from pipeline.crf.strips import STRIP, strips

WIDEST = 32  # lanes that stay in the processor's registers
ABSENT = np.float32(-1e4)  # the score of lanes that hold no class
MIN_PROBABILITY = np.float32(1e-8)  # log 0 would rule a class out whatever its neighbours are


class Rows(NamedTuple):
    """Log-probabilities of an image's pixels up to a constant of each.

    Attributes:
        size: (height, width) of the image.
        scores: float32 [pixels · width], in the order of `strips`; lanes that hold no class have a large negative
            number.
        order: int [classes], the classes in the order of the lanes. Where some are left out, one more lane holds the
            log of their probabilities' sum.
        of: how many classes there are.
        rest: what the messages of that lane are multiplied by.
        width: of a row, a multiple of the lanes.
        lanes: as many zeros as numbers go through a register at once.
    """

    size: tuple[int, int]
    scores: NDArray[np.float32]
    order: NDArray[np.intp]
    of: int
    rest: float
    width: int
    lanes: tuple[int, ...]

    @property
    def classes(self) -> int:
        return len(self.order)

    @property
    def used(self) -> int:
        """Lanes of a row that are."""
        return len(self.order) + (len(self.order) < self.of)

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    def strips(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The columns of each strip, and its rows [height, columns, width]."""
        for columns, places in strips(*self.size):
            rows = self.scores.reshape(-1, self.width)[places]
            yield columns, rows.reshape(self.size[0], -1, self.width)


def empty_rows(size: tuple[int, int], order: NDArray[np.intp], *, of: int, rest: float) -> Rows:
    """Rows for an image's pixels, of the width that wastes least."""
    lanes = len(order) + (len(order) < of)
    width = vector = -(-lanes // 8) * 8
    if width > WIDEST:
        width, vector = min((-(-lanes // n) * n, n) for n in (32, 24, 16))
    return Rows(size, aligned(size[0] * size[1] * width), order, of, rest, width, (0,) * vector)


def rows_of(given: NDArray, order: NDArray[np.intp], *, probabilities: bool, rest: float = 0.0) -> Rows:
    """Rows of probabilities, or of unary energies, [classes, height, width], of the classes in an order."""
    classes, *size = given.shape
    others = np.setdiff1d(np.arange(classes), order)
    rows = empty_rows((size[0], size[1]), order, of=classes, rest=rest)
    for columns, table in rows.strips():
        strip = given[..., columns]
        part = (strip[order] if len(others) else strip).astype(np.float32)
        if len(others):
            part = np.concatenate([part, _sum(strip[others], probabilities=probabilities)])
        if not probabilities:
            np.negative(part, out=part)
        _enter(part.reshape(len(part), -1), table.reshape(-1), probabilities, rows.lanes)
    return rows


def _sum(part: NDArray, *, probabilities: bool) -> NDArray[np.float32]:
    """The sum of probabilities, or -log of it, [1, …]."""
    if probabilities:
        return part.sum(axis=0, keepdims=True, dtype=np.float32)
    part = part.astype(np.float32)
    least = part.min(axis=0)
    return (least - np.log(np.exp(least - part).sum(axis=0)))[None]


@njit(nogil=True, cache=True)
def _enter(part, table, logs, lanes):
    """Numbers [classes, pixels], or their logarithms, into flat rows; block by block, which stay in the cache."""
    classes, pixels = part.shape
    width = len(table) // pixels
    for start in range(0, pixels, 16):
        stop = min(start + 16, pixels)
        for c in range(classes):
            for p in range(start, stop):
                poke(table, p * width + c, part[c, p])
        for p in range(start, stop):
            if logs:
                for at in range(p * width, (p + 1) * width, len(lanes)):
                    store(table, at, logarithm(load(table, at, lanes), MIN_PROBABILITY))
            for c in range(classes, width):
                poke(table, p * width + c, ABSENT)


def halved(rows: Rows) -> NDArray[np.float32]:
    """The means of squares of 2x2 pixels (at odd ends, of what there is), in the order of strips of half the width."""
    height, width = rows.size
    half = aligned(-(-height // 2) * -(-width // 2) * rows.width)
    table = half.reshape(-1, rows.width)
    places = strips(-(-height // 2), -(-width // 2), strip=STRIP // 2)
    for (_, full), (_, place) in zip(rows.strips(), places, strict=True):
        _halve(full, table[place].reshape(-(-height // 2), -1, rows.width))
    return half


@njit(nogil=True, cache=True)
def _halve(full, half):
    height, width, n = full.shape
    for y in range(half.shape[0]):
        below = min(2 * y + 1, height - 1)
        for x in range(half.shape[1]):
            right = min(2 * x + 1, width - 1)
            for c in range(n):
                sum = full[2 * y, 2 * x, c] + full[2 * y, right, c] + full[below, 2 * x, c] + full[below, right, c]
                half[y, x, c] = np.float32(0.25) * sum
