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
        order: int [classes], the classes in the order of the lanes. Where some are left out, one more lane holds the
            log of their probabilities' sum.
        of: how many classes there are.
        rest: what the messages of that lane are multiplied by.
        width: of a row, a multiple of the lanes.
        lanes: as many zeros as numbers go through a register at once.
    """

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
        return len(self.scores) // self.width


def empty_rows(pixels: int, order: NDArray[np.intp], *, of: int, rest: float) -> Rows:
    """Rows for so many pixels, of the width that wastes least."""
    lanes = len(order) + (len(order) < of)
    width = vector = -(-lanes // 8) * 8
    if width > WIDEST:
        width, vector = min((-(-lanes // n) * n, n) for n in (32, 24, 16))
    return Rows(aligned(pixels * width), order, of, rest, width, (0,) * vector)


def rows_of(given: NDArray, order: NDArray[np.intp], *, probabilities: bool, rest: float = 0.0) -> Rows:
    """Rows of probabilities, or of unary energies, [classes, pixels], of the classes in an order."""
    classes, pixels = given.shape
    others = np.setdiff1d(np.arange(classes), order)
    rows = empty_rows(pixels, order, of=classes, rest=rest)
    table = rows.scores.reshape(pixels, rows.width)
    for start in range(0, pixels, CHUNK):
        part = given[:, start : start + CHUNK]
        logs = _logs(part[order] if len(others) else part.copy(), probabilities=probabilities)
        if len(others):
            logs = np.concatenate([logs, _log_sum(part[others], probabilities=probabilities)])
        _transpose(logs, table[start : start + CHUNK])
    return rows


def _logs(part: NDArray, *, probabilities: bool) -> NDArray[np.float32]:
    """In place, where it is float32 already."""
    part = part.astype(np.float32, copy=False)
    if not probabilities:
        return np.negative(part, out=part)
    return np.log(np.maximum(part, MIN_PROBABILITY, out=part), out=part)


def _log_sum(part: NDArray, *, probabilities: bool) -> NDArray[np.float32]:
    """log of the sum of the probabilities, [1, pixels]."""
    if probabilities:
        return _logs(part.sum(axis=0, keepdims=True, dtype=np.float32), probabilities=True)
    part = part.astype(np.float32)
    least = part.min(axis=0)
    return (np.log(np.exp(least - part).sum(axis=0)) - least)[None]


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
    scores = aligned(-(-height // 2) * -(-width // 2) * rows.width)
    half = rows._replace(scores=scores)
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
