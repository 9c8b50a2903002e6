"""Class scores as rows: a pixel's classes beside each other, padded to whole vectors."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.crf.lanes import aligned

WIDEST = 32  # lanes that stay in the processor's registers
ABSENT = np.float32(-1e4)  # the score of lanes that hold no class
MIN_PROBABILITY = np.float32(1e-8)  # log 0 would rule a class out whatever its neighbours are
CHUNK = 1 << 14  # pixels, whose classes stay in the cache


class Rows(NamedTuple):
    """Log-probabilities of pixels up to a constant of each.

    Attributes:
        scores: float32 [pixels · width]; lanes that hold no class have a large negative number.
        order: int [classes], the classes in the order of the lanes.
        width: of a row, a multiple of the lanes.
        lanes: as many zeros as numbers go through a register at once.
    """

    scores: NDArray[np.float32]
    order: NDArray[np.intp]
    width: int
    lanes: tuple[int, ...]

    @property
    def classes(self) -> int:
        return len(self.order)

    @property
    def pixels(self) -> int:
        return len(self.scores) // self.width


def empty_rows(pixels: int, order: NDArray[np.intp]) -> Rows:
    """Rows for so many pixels, of the width that wastes least."""
    width, lanes = -(-len(order) // 8) * 8, -(-len(order) // 8) * 8
    if width > WIDEST:
        width, lanes = min((-(-len(order) // n) * n, n) for n in (32, 24, 16))
    return Rows(aligned(pixels * width), order, width, (0,) * lanes)


def rows_of(given: NDArray, order: NDArray[np.intp], *, probabilities: bool) -> Rows:
    """Rows of probabilities, or of unary energies, [classes, pixels], of the classes in an order."""
    pixels = given.shape[1]
    rows = empty_rows(pixels, order)
    table = rows.scores.reshape(pixels, rows.width)
    every = len(order) == len(given)
    for start in range(0, pixels, CHUNK):
        part = given[:, start : start + CHUNK] if every else given[order, start : start + CHUNK]
        part = part.astype(np.float32)
        if probabilities:
            np.maximum(part, MIN_PROBABILITY, out=part)
            np.log(part, out=part)
        else:
            np.negative(part, out=part)
        _transpose(part, table[start : start + CHUNK])
    return rows


@njit(nogil=True, cache=True)
def _transpose(part, table):
    """[classes, pixels] into [pixels, width], block by block."""
    classes, pixels = part.shape
    for start in range(0, pixels, 16):
        stop = min(start + 16, pixels)
        for c in range(classes):
            for p in range(start, stop):
                table[p, c] = part[c, p]
        for p in range(start, stop):
            for c in range(classes, table.shape[1]):
                table[p, c] = ABSENT


def halved(rows: Rows, height: int, width: int) -> Rows:
    """The means of squares of 2x2 pixels; at odd ends, of what there is."""
    half = empty_rows(-(-height // 2) * -(-width // 2), rows.order)
    _halve(rows.scores.reshape(height, width, rows.width), half.scores.reshape(-1, -(-width // 2), rows.width))
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
