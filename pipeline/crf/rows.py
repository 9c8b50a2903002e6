"""Class scores as rows: a sample's classes beside each other, padded to whole vectors."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.crf.lanes import exponential, load, logarithm, peek, poke, row_of, scale_add, store
from pipeline.crf.memory import scratch
from pipeline.crf.samples import Samples

WIDEST = 32  # lanes that stay in the processor's registers
ABSENT = np.float32(-1e4)  # the score of lanes that hold no class
MIN_PROBABILITY = np.float32(1e-8)  # log 0 would rule a class out whatever its neighbours are
CHUNK_SAMPLES = 1024  # samples
CHUNK_PIXELS = 1 << 12  # pixels
AT_ONCE = (0,) * 16  # lanes
ONE, NOTHING = np.float32(1), np.float32(0)


class Rows(NamedTuple):
    """Log-probabilities of samples up to a constant of each.

    Attributes:
        scores: float32 [samples · width], in the order of the samples; lanes that hold no class have a large negative
            number.
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
    def samples(self) -> int:
        return len(self.scores) // self.width


def empty_rows(samples: Samples, order: NDArray[np.intp], *, of: int, rest: float) -> Rows:
    """Rows for samples, of the width that wastes least."""
    lanes = len(order) + (len(order) < of)
    width = vector = -(-lanes // 8) * 8
    if width > WIDEST:
        width, vector = min((-(-lanes // n) * n, n) for n in (32, 24, 16))
    return Rows(scratch("scores", len(samples.ys) * width), order, of, rest, width, (0,) * vector)


def rows_of(
    given: NDArray, samples: Samples, order: NDArray[np.intp], *, probabilities: bool, rest: float = 0.0
) -> Rows:
    """Rows of the classes in an order, of probabilities, or of unary energies, [classes, height, width]."""
    classes = len(given)
    rows = empty_rows(samples, order, of=classes, rest=rest)
    others = np.setdiff1d(np.arange(classes), order)
    height, line = samples.size
    _enter(
        _planes(given), height * line, line, *samples.squares, order, others, probabilities,
        rows.scores, rows.width, rows.lanes,
    )  # fmt: skip
    return rows


@njit(nogil=True, cache=True, error_model="numpy")
def _enter(planes, pixels, line, ys, xs, sides, order, others, probabilities, table, width, lanes):
    """Log-probabilities at the samples into flat rows, so many at a time that they stay in the cache."""
    places = np.zeros(CHUNK_SAMPLES, np.int64)
    for start in range(0, len(ys), CHUNK_SAMPLES):
        count = min(CHUNK_SAMPLES, len(ys) - start)
        for k in range(count):
            middle = peek(sides, start + k) >> 1
            poke(places, k, np.int64(peek(ys, start + k) + middle) * line + peek(xs, start + k) + middle)
        for c in range(len(order)):
            plane = order[c] * pixels
            for k in range(count):
                poke(table, (start + k) * width + c, peek(planes, plane + peek(places, k)))
        for at in range(start * width, (start + count) * width, len(lanes)):
            x = load(table, at, lanes)
            logs = logarithm(x, MIN_PROBABILITY) if probabilities else scale_add(x, -ONE, row_of(NOTHING, lanes))
            store(table, at, logs)
        for k in range(count):
            for c in range(len(order), width):
                poke(table, (start + k) * width + c, ABSENT)
        if len(others):
            _enter_rest(planes, pixels, places, others, probabilities, table, start, count, width, len(order))


@njit(nogil=True, cache=True, error_model="numpy")
def _enter_rest(planes, pixels, places, others, probabilities, table, start, count, width, lane):
    """The log of the others' summed probability, into one lane of a block's rows."""
    sums, least, numbers = (
        np.zeros(CHUNK_SAMPLES, np.float32),
        np.zeros(CHUNK_SAMPLES, np.float32),
        np.zeros(CHUNK_SAMPLES, np.float32),
    )
    if not probabilities:
        least[:] = np.inf
        for c in range(len(others)):
            for k in range(count):
                poke(least, k, min(peek(least, k), peek(planes, others[c] * pixels + peek(places, k))))
    for c in range(len(others)):
        plane = others[c] * pixels
        for k in range(count):
            poke(numbers, k, peek(planes, plane + peek(places, k)))
        for k in range(0, count, len(AT_ONCE)):
            x = load(numbers, k, AT_ONCE)
            if not probabilities:
                x = exponential(scale_add(x, -ONE, load(least, k, AT_ONCE)), NOTHING)
            store(sums, k, scale_add(x, ONE, load(sums, k, AT_ONCE)))
    for k in range(0, count, len(AT_ONCE)):
        store(sums, k, logarithm(load(sums, k, AT_ONCE), MIN_PROBABILITY))
    for k in range(count):
        poke(table, (start + k) * width + lane, peek(sums, k) - peek(least, k))


def best_classes(given: NDArray, *, smallest: bool) -> NDArray[np.int32]:
    """The class with the largest number of [classes, height, width] at each pixel, or the smallest."""
    classes, *size = given.shape
    labels = np.zeros((size[0], size[1]), np.int32)
    _mark_best(_planes(given).reshape(classes, -1), np.float32(-1 if smallest else 1), labels.reshape(-1))
    return labels


@njit(nogil=True, cache=True)
def _mark_best(planes, sign, labels):
    best = np.empty(CHUNK_PIXELS, np.float32)
    for start in range(0, len(labels), CHUNK_PIXELS):
        here = labels[start : start + CHUNK_PIXELS]
        for c in range(len(planes)):
            part = planes[c, start : start + CHUNK_PIXELS]
            for q in range(len(here)):
                x = sign * part[q]
                better = c == 0 or x > best[q]
                best[q] = x if better else best[q]
                here[q] = c if better else here[q]


def _planes(given: NDArray) -> NDArray[np.float32]:
    """Flat float32, of one type for Numba whether or not the caller's may be written."""
    planes = np.ascontiguousarray(given, np.float32).reshape(-1).view()
    planes.flags.writeable = False
    return planes
