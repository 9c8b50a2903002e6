"""The loops of the mean field, one compiled variant per number of lanes.

Arrays are flat and hold rows of float32: a sample's classes, or a lattice point's. A row is `width` numbers, a multiple
of `len(lanes)`, which is what goes through the processor's registers at once. (Of a lattice the first `len(lanes)`
numbers of all points come first, then the next: a point's number times a constant finds it.) `corners` is a tuple as
long as a sample has vertices, so that loops over them are unrolled.

A step goes over the samples in blocks, and over a block in short loops: in one long loop per sample the processor would
wait for each one's chain of additions, maximum, exponential and sum before it saw the next.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.crf.lanes import (
    divide,
    exponential,
    largest,
    load,
    logarithm,
    multiply_add,
    peek,
    poke,
    row_of,
    scale_add,
    store,
    total,
)

GROUP_SAMPLES = 16  # samples
GROUP_LANES = (0,) * GROUP_SAMPLES  # as lanes
NOTHING = np.float32(0)
HALF = np.float32(0.5)
ONE = np.float32(1)
LEAST_DOUBT = np.float32(1e-7)  # what float32 tells of 1 - max Q
CONTESTED = np.float32(1.7)  # 1 / max Q of a sample that never settles


class Passage(NamedTuple):
    """A kernel's lattice during a step: values of the last step are sliced, those of the next are splat.

    Attributes:
        vertices: int32 [samples · 2 (d + 1)], for each sample the numbers of the d + 1 points around it; then, beside
            them in memory, the bits of their weights in the slice.
        weights: float32, the same memory.
        ratios: float32 [samples], of the weights in the splat to those in the slice.
        corners: d + 1 zeros.
        old: float32 [points · width], splat and blurred.
        new: float32 [points · width], splat; each step begins with what has settled.
        settled: float32 [points · width], the splat of samples that are not visited any more.
    """

    vertices: NDArray[np.int32]
    weights: NDArray[np.float32]
    ratios: NDArray[np.float32]
    corners: tuple[int, ...]
    old: NDArray[np.float32]
    new: NDArray[np.float32]
    settled: NDArray[np.float32]


class Compatibility(NamedTuple):
    """What messages are multiplied by before they are added: nothing (Potts' model), or one of these.

    Attributes:
        factors: float32 [width], of each class.
        matrix: float32 [width, width], minus the penalties; a row is the neighbour's class.
    """

    factors: NDArray[np.float32] | None
    matrix: NDArray[np.float32] | None


@njit(nogil=True, cache=True, error_model="numpy")
def blur(values, chains, width, lanes):
    """[1/2, 1, 1/2] along the chains of a direction, in place: each row is read once and written once.

    Chains are short: with a branch at their ends the processor would guess wrong at every other point.
    """
    for part in range(0, len(values), len(values) // width * len(lanes)):
        j = np.int64(peek(chains, 0))
        i = j ^ (j >> 63)
        here = load(values, i * len(lanes) + part, lanes)
        before, half_before = here, NOTHING
        for k in range(1, len(chains)):
            half_after = HALF if j >= 0 else NOTHING
            at = i * len(lanes) + part
            j = np.int64(peek(chains, k))
            i = j ^ (j >> 63)
            after = load(values, i * len(lanes) + part, lanes)
            store(values, at, scale_add(after, half_after, scale_add(before, half_before, here)))
            before, here, half_before = here, after, half_after


@njit(nogil=True, cache=True, error_model="numpy")
def begin(scores, certainty, first, second, width, lanes):
    """Splat the softmax of the scores."""
    rows, sums, samples = (
        np.empty(GROUP_SAMPLES * width, np.float32),
        np.ones(GROUP_SAMPLES, np.float32),
        len(scores) // width,
    )
    for start in range(0, samples, GROUP_SAMPLES):
        count = min(GROUP_SAMPLES, samples - start)
        _copy(rows, start, count, scores, width)
        _exponentials(rows, sums, count, width, lanes)
        store(certainty, start, logarithm(_odds(sums), ONE))
        _scatter(rows, sums, start, count, first, first.new, second, second.new, width, lanes)


@njit(nogil=True, cache=True, error_model="numpy")
def step(
    scores, blocks, certainty, labels, first, second, factors, matrix, tolerance, patience, width, lanes
):  # fmt: skip
    """A mean-field step in one pass over the samples: slice both kernels, add the scores, softmax, splat into both.

    Blocks of samples whose probabilities have settled are splat for good and need not be visited again.

    Args:
        scores: float32 [samples · width], log-probabilities.
        blocks: int32, the first sample of each block to visit. Those to visit in the next step are moved to the front.
        certainty: float32 [samples, rounded up to whole blocks], log 1 / (1 - max Q); updated.
        labels: int32 [samples], best classes, updated to count how many change; or None.
        first, second: the two kernels.
        factors, matrix: see `Compatibility`.
        tolerance, patience: see `_settled`.
        width, lanes: of a row.

    Returns:
        How many blocks to visit in the next step, and how many samples have another label.
    """
    rows, sums, samples = (
        np.empty(GROUP_SAMPLES * width, np.float32),
        np.ones(GROUP_SAMPLES, np.float32),
        len(scores) // width,
    )
    changed = left = 0
    for i in range(len(blocks)):
        start = np.int64(peek(blocks, i))
        count = min(GROUP_SAMPLES, samples - start)
        _logits(rows, start, count, scores, first, second, factors, matrix, width, lanes)
        if labels is not None:
            changed += _relabel(labels, rows, start, count, width, width)
        _exponentials(rows, sums, count, width, lanes)
        _scatter(rows, sums, start, count, first, first.new, second, second.new, width, lanes)
        if _settled(sums, certainty, start, tolerance, patience):
            _scatter(rows, sums, start, count, first, first.settled, second, second.settled, width, lanes)
        else:
            poke(blocks, left, np.int32(start))
            left += 1
    return left, changed


@njit(nogil=True, cache=True, error_model="numpy")
def labels_of(scores, first, second, factors, matrix, classes, width, lanes):
    """The last slice (without kernels, none): the best classes, int32 [samples]."""
    rows, samples = np.empty(GROUP_SAMPLES * width, np.float32), len(scores) // width
    labels = np.zeros(samples, np.int32)
    for start in range(0, samples, GROUP_SAMPLES):
        count = min(GROUP_SAMPLES, samples - start)
        if first is None:
            _copy(rows, start, count, scores, width)
        else:
            _logits(rows, start, count, scores, first, second, factors, matrix, width, lanes)
        _relabel(labels, rows, start, count, classes, width)
    return labels


@njit(nogil=True, cache=True, error_model="numpy")
def probabilities_of(result, scores, first, second, factors, matrix, width, lanes):
    """The last slice (without kernels, none): write the softmax to float32 [lanes, samples]."""
    used, samples = result.shape
    rows, sums = np.empty(GROUP_SAMPLES * width, np.float32), np.empty(GROUP_SAMPLES, np.float32)
    for start in range(0, samples, GROUP_SAMPLES):
        count = min(GROUP_SAMPLES, samples - start)
        if first is None:
            _copy(rows, start, count, scores, width)
        else:
            _logits(rows, start, count, scores, first, second, factors, matrix, width, lanes)
        _exponentials(rows, sums, count, width, lanes)
        for c in range(used):
            for q in range(count):
                result[c, start + q] = rows[q * width + c] / sums[q]


@njit(nogil=True, cache=True, error_model="numpy")
def _copy(rows, start, count, scores, width):
    for i in range(count * width):
        poke(rows, i, peek(scores, start * width + i))


@njit(nogil=True, cache=True, error_model="numpy")
def _odds(sums):
    """1 / (1 - max Q) of a block, where the sum of e^(x - max x) is 1 / max Q."""
    sum = load(sums, 0, GROUP_LANES)
    return divide(sum, scale_add(row_of(ONE, GROUP_LANES), LEAST_DOUBT - ONE, sum))


@njit(nogil=True, cache=True, error_model="numpy")
def _settled(sums, certainty, start, tolerance, patience):
    """Whether all samples of a block have settled; and note their certainty.

    With e = 1 - max Q, a logit that moves by D against the others changes no probability by more than e (exp D - 1):
    there is room for D = log(1 + tolerance / e). Settled is a sample that would take as many steps as patience tells to
    go that far at the pace of its last one. Paces slacken from step to step; a sample that settles too early is put
    right by the last slice, and weighs on others by what it is wrong.
    """
    odds = _odds(sums)
    now, none = logarithm(odds, ONE), row_of(NOTHING, GROUP_LANES)
    pace = scale_add(load(certainty, start, GROUP_LANES), -ONE, now)
    store(certainty, start, now)
    room = logarithm(scale_add(odds, tolerance, row_of(ONE, GROUP_LANES)), ONE)
    over = max(
        largest(scale_add(pace, patience, scale_add(room, -ONE, none))),
        largest(scale_add(pace, -patience, scale_add(room, -ONE, none))),
    )
    return over < 0 and largest(load(sums, 0, GROUP_LANES)) < CONTESTED


@njit(nogil=True, cache=True, error_model="numpy")
def _logits(rows, start, count, scores, first, second, factors, matrix, width, lanes):
    """Scores plus messages of a block of samples; see `Compatibility` for factors and matrix."""
    for part in range(0, width, len(lanes)):
        in_first, in_second = len(first.old) // width * part, len(second.old) // width * part
        for k in range(count):
            score = load(scores, (start + k) * width + part, lanes)
            x = score if factors is None and matrix is None else row_of(NOTHING, lanes)
            at = (start + k) * 2 * len(first.corners)
            for r in range(len(first.corners)):
                y = load(first.old, np.int64(peek(first.vertices, at + r)) * len(lanes) + in_first, lanes)
                x = scale_add(y, peek(first.weights, at + len(first.corners) + r), x)
            at = (start + k) * 2 * len(second.corners)
            for r in range(len(second.corners)):
                y = load(second.old, np.int64(peek(second.vertices, at + r)) * len(lanes) + in_second, lanes)
                x = scale_add(y, peek(second.weights, at + len(second.corners) + r), x)
            if factors is not None:
                x = multiply_add(x, load(factors, part, lanes), score)
            store(rows, k * width + part, x)
    if matrix is not None:
        _mix(rows, start, count, scores, matrix, width, lanes)


@njit(nogil=True, cache=True, error_model="numpy")
def _mix(rows, start, count, scores, matrix, width, lanes):
    """Scores plus the matrix times the messages, in place of the messages."""
    message = np.empty(width, np.float32)
    for k in range(count):
        message[:] = rows[k * width : (k + 1) * width]
        for part in range(0, width, len(lanes)):
            x = load(scores, (start + k) * width + part, lanes)
            for c in range(width):
                x = scale_add(load(matrix[c], part, lanes), message[c], x)
            store(rows, k * width + part, x)


@njit(nogil=True, cache=True, error_model="numpy")
def _exponentials(rows, sums, count, width, lanes):
    """Rows become e^(x - max x), sums their sums."""
    for k in range(count):
        shift = largest(load(rows, k * width, lanes))
        for part in range(len(lanes), width, len(lanes)):
            shift = max(shift, largest(load(rows, k * width + part, lanes)))
        poke(sums, k, shift)
    for k in range(count):
        shift = peek(sums, k)
        for part in range(0, width, len(lanes)):
            at = k * width + part
            store(rows, at, exponential(load(rows, at, lanes), shift))
    for k in range(count):
        sum = total(load(rows, k * width, lanes))
        for part in range(len(lanes), width, len(lanes)):
            sum += total(load(rows, k * width + part, lanes))
        poke(sums, k, sum)


@njit(nogil=True, cache=True, error_model="numpy")
def _scatter(rows, sums, start, count, first, in_first, second, in_second, width, lanes):
    """Add each row, divided by its sum, times the weights, to the values of two lattices at the sample's vertices. Both
    in one loop: where samples share a point, the next addition to it waits for the last."""
    n, m = len(first.corners), len(second.corners)
    for part in range(0, width, len(lanes)):
        first_part, second_part = len(in_first) // width * part, len(in_second) // width * part
        for k in range(count):
            x, inverse = load(rows, k * width + part, lanes), ONE / peek(sums, k)
            scale, at = peek(first.ratios, start + k) * inverse, (start + k) * 2 * n
            for r in range(len(first.corners)):
                i = np.int64(peek(first.vertices, at + r)) * len(lanes) + first_part
                store(in_first, i, scale_add(x, peek(first.weights, at + n + r) * scale, load(in_first, i, lanes)))
            scale, at = peek(second.ratios, start + k) * inverse, (start + k) * 2 * m
            for r in range(len(second.corners)):
                i = np.int64(peek(second.vertices, at + r)) * len(lanes) + second_part
                store(in_second, i, scale_add(x, peek(second.weights, at + m + r) * scale, load(in_second, i, lanes)))


@njit(nogil=True, cache=True, error_model="numpy")
def _relabel(labels, rows, start, count, classes, width):
    """Write the classes of the largest numbers; returns how many samples had another label."""
    changed = 0
    for k in range(count):
        best, highest = 0, peek(rows, k * width)
        for c in range(1, classes):
            x = peek(rows, k * width + c)
            if x > highest:
                best, highest = c, x
        changed += peek(labels, start + k) != best
        poke(labels, start + k, np.int32(best))
    return changed
