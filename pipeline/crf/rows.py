"""Class scores as rows: the scores of each sample side by side, padded to whole vectors."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.crf.compiling import njit
from pipeline.crf.lanes import broadcast, exponential, load, logarithm, peek, poke, scale_add, store
from pipeline.crf.memory import scratch
from pipeline.crf.samples import Samples

MAX_REGISTER_LANES = 32  # longest vector that stays in registers
PADDING_SCORE = np.float32(-1e4)  # log-probability of lanes without a class
MIN_PROBABILITY = np.float32(1e-8)  # log 0 would exclude a class whatever the messages are
CHUNK_SAMPLES = 1024  # samples converted together
CHUNK_PIXELS = 1 << 12  # pixels compared together
SAMPLE_LANES = (0,) * 16  # for vectors with one lane for each of 16 samples
ONE, ZERO = np.float32(1), np.float32(0)


class Rows(NamedTuple):
    """Log-probabilities of samples, up to a constant for each sample.

    The first lanes of a row hold the kept classes. If classes have been pruned, the next lane, the rest lane, holds the
    log of the sum of their probabilities. All other lanes are padding.

    Attributes:
        scores: float32 [samples · width], row by row.
        kept: int [kept classes], the class of each of the first lanes.
        num_classes: number of classes before pruning.
        rest_factor: compatibility factor of the rest lane's messages.
        width: length of a row, a multiple of the number of lanes of a vector.
        lanes: tuple of zeros, as long as a vector has lanes.
    """

    scores: NDArray[np.float32]
    kept: NDArray[np.intp]
    num_classes: int
    rest_factor: float
    width: int
    lanes: tuple[int, ...]

    @property
    def used_lanes(self) -> int:
        """Number of lanes of a row that are not padding."""
        return used_lanes(self.kept, self.num_classes)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.scores) // self.width


def used_lanes(kept: NDArray[np.intp], num_classes: int) -> int:
    """Return the number of lanes for the kept classes and, if classes have been pruned, the rest lane."""
    return len(kept) + (len(kept) < num_classes)


def empty_rows(samples: Samples, kept: NDArray[np.intp], *, num_classes: int, rest_factor: float) -> Rows:
    """Return rows with uninitialised scores, of the width with the least padding."""
    used = used_lanes(kept, num_classes)
    width = vector = -(-used // 8) * 8
    if width > MAX_REGISTER_LANES:
        width, vector = min((-(-used // n) * n, n) for n in (32, 24, 16))
    return Rows(scratch("scores", len(samples.ys) * width), kept, num_classes, rest_factor, width, (0,) * vector)


def rows_from_planes(
    planes: NDArray, samples: Samples, kept: NDArray[np.intp], *, probabilities: bool, rest_factor: float
) -> Rows:
    """Return rows of full-size probabilities or energies.

    Args:
        planes: float32 [classes, height, width].
        samples: samples of the image.
        kept: int [kept classes], the classes that get lanes of their own.
        probabilities: whether the planes are probabilities; otherwise they are energies.
        rest_factor: see `Rows`.
    """
    classes = len(planes)
    rows = empty_rows(samples, kept, num_classes=classes, rest_factor=rest_factor)
    pruned = np.setdiff1d(np.arange(classes), kept)
    height, width = samples.size
    _fill_rows(
        _flat(planes), height * width, width, *samples.squares, kept, pruned, probabilities,
        rows.scores, rows.width, rows.lanes,
    )  # fmt: skip
    return rows


@njit(nogil=True, cache=True, error_model="numpy")
def _fill_rows(
    planes, plane_size, image_width, ys, xs, sides, kept, pruned, probabilities, scores, width, lanes
):  # fmt: skip
    """Write the log-probabilities at the samples' middle pixels, in chunks of samples that stay in the cache."""
    places = np.zeros(CHUNK_SAMPLES, np.int64)
    for start in range(0, len(ys), CHUNK_SAMPLES):
        count = min(CHUNK_SAMPLES, len(ys) - start)
        for k in range(count):
            middle = peek(sides, start + k) >> 1
            poke(places, k, np.int64(peek(ys, start + k) + middle) * image_width + peek(xs, start + k) + middle)
        for c in range(len(kept)):
            plane = kept[c] * plane_size
            for k in range(count):
                poke(scores, (start + k) * width + c, peek(planes, plane + peek(places, k)))
        for at in range(start * width, (start + count) * width, len(lanes)):
            x = load(scores, at, lanes)
            logs = logarithm(x, MIN_PROBABILITY) if probabilities else scale_add(x, -ONE, broadcast(ZERO, lanes))
            store(scores, at, logs)
        for k in range(count):
            for c in range(len(kept), width):
                poke(scores, (start + k) * width + c, PADDING_SCORE)
        if len(pruned):
            _fill_rest_lane(planes, plane_size, places, pruned, probabilities, scores, start, count, width, len(kept))


@njit(nogil=True, cache=True, error_model="numpy")
def _fill_rest_lane(planes, plane_size, places, pruned, probabilities, scores, start, count, width, lane):
    """Write the log of the pruned classes' summed probability into the rest lane of a chunk's rows."""
    sums, lowest = np.zeros(CHUNK_SAMPLES, np.float32), np.zeros(CHUNK_SAMPLES, np.float32)
    values = np.zeros(CHUNK_SAMPLES, np.float32)
    if not probabilities:  # the lowest energy, for a stable log of a sum of exponentials
        lowest[:] = np.inf
        for c in range(len(pruned)):
            for k in range(count):
                poke(lowest, k, min(peek(lowest, k), peek(planes, pruned[c] * plane_size + peek(places, k))))
    for c in range(len(pruned)):
        plane = pruned[c] * plane_size
        for k in range(count):
            poke(values, k, peek(planes, plane + peek(places, k)))
        for k in range(0, count, len(SAMPLE_LANES)):
            x = load(values, k, SAMPLE_LANES)
            if not probabilities:
                x = exponential(scale_add(x, -ONE, load(lowest, k, SAMPLE_LANES)), ZERO)
            store(sums, k, scale_add(x, ONE, load(sums, k, SAMPLE_LANES)))
    for k in range(0, count, len(SAMPLE_LANES)):
        store(sums, k, logarithm(load(sums, k, SAMPLE_LANES), MIN_PROBABILITY))
    for k in range(count):
        poke(scores, (start + k) * width + lane, peek(sums, k) - peek(lowest, k))


def best_classes(planes: NDArray, *, smallest: bool) -> NDArray[np.int32]:
    """Return the class with the largest or smallest value at each pixel, int32 [height, width].

    Args:
        planes: float32 [classes, height, width].
        smallest: whether the smallest value is the best, as it is for energies.
    """
    classes, height, width = planes.shape
    labels = np.zeros((height, width), np.int32)
    _write_best(_flat(planes).reshape(classes, -1), np.float32(-1 if smallest else 1), labels.reshape(-1))
    return labels


@njit(nogil=True, cache=True)
def _write_best(planes, sign, labels):
    best = np.empty(CHUNK_PIXELS, np.float32)
    for start in range(0, len(labels), CHUNK_PIXELS):
        chunk_labels = labels[start : start + CHUNK_PIXELS]
        for c in range(len(planes)):
            values = planes[c, start : start + CHUNK_PIXELS]
            for q in range(len(chunk_labels)):
                x = sign * values[q]
                better = c == 0 or x > best[q]
                best[q] = x if better else best[q]
                chunk_labels[q] = c if better else chunk_labels[q]


def _flat(planes: NDArray) -> NDArray[np.float32]:
    """Return flat, read-only float32, so that Numba sees one type whether or not the caller's array is writeable."""
    flat = np.ascontiguousarray(planes, np.float32).reshape(-1).view()
    flat.flags.writeable = False
    return flat
