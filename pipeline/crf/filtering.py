"""Values through a lattice: the loops of the mean field, one compiled variant per number of lanes.

Arrays are flat and hold rows of float32: a pixel's classes, or a lattice point's. A row is `width` numbers, a multiple
of `len(lanes)`, which is what goes through the processor's registers at once. Vertices are given as the offsets of
their rows. `corners` is a tuple as long as a pixel has vertices, so that loops over them are unrolled.

A step goes over the pixels in blocks, and over a block in short loops: in one long loop per pixel the processor would
wait for each pixel's chain of additions, maximum, exponential and sum before it saw the next one.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.crf.lanes import exponential, largest, load, multiply_add, peek, poke, scale_add, store, total, zeros

BLOCK = 16  # pixels
NOTHING = np.float32(0)
HALF = np.float32(0.5)
ONE = np.float32(1)


class Passage(NamedTuple):
    """A kernel during a step: values of the last step are sliced, those of the next are splat.

    Attributes:
        vertices: int32 [pixels · (d + 1)], offsets of lattice points' rows.
        into, out: float32 [pixels · (d + 1)], weights of the splat and of the slice; they hold the kernel's weight and
            normalisation already.
        corners: d + 1 zeros.
        old, new: float32 [(points + 1) · width], the lattice's values; the last row is zeros.
    """

    vertices: NDArray[np.int32]
    into: NDArray[np.float32]
    out: NDArray[np.float32]
    corners: tuple[int, ...]
    old: NDArray[np.float32]
    new: NDArray[np.float32]


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
    for part in range(0, width, len(lanes)):
        j = np.int64(peek(chains, 0))
        i = j ^ (j >> 63)
        here = load(values, i * width + part, lanes)
        before, half_before = here, NOTHING
        for k in range(1, len(chains)):
            half_after = HALF if j >= 0 else NOTHING
            at = i * width + part
            j = np.int64(peek(chains, k))
            i = j ^ (j >> 63)
            after = load(values, i * width + part, lanes)
            store(values, at, scale_add(after, half_after, scale_add(before, half_before, here)))
            before, here, half_before = here, after, half_after


@njit(nogil=True, cache=True, error_model="numpy")
def step(scores, first, second, factors, matrix, labels, classes, width, lanes):
    """A mean-field step in one pass over the pixels: slice both kernels, add the scores, softmax, splat into both.

    Where labels are not None the best classes are written to them. Returns how many pixels had another label.
    """
    rows, sums, changed = np.empty(BLOCK * width, np.float32), np.empty(BLOCK, np.float32), 0
    for start in range(0, len(scores) // width, BLOCK):
        count = min(BLOCK, len(scores) // width - start)
        _logits(rows, start, count, scores, first, second, factors, matrix, width, lanes)
        if labels is not None:
            changed += _best(labels[start : start + count], rows, classes, width)
        _exponentials(rows, sums, count, width, lanes)
        _scatter(rows, sums, start, count, first, width, lanes)
        _scatter(rows, sums, start, count, second, width, lanes)
    return changed


@njit(nogil=True, cache=True, error_model="numpy")
def first_step(scores, first, second, width, lanes):
    """Splat the softmax of the scores."""
    rows, sums = np.empty(BLOCK * width, np.float32), np.empty(BLOCK, np.float32)
    for start in range(0, len(scores) // width, BLOCK):
        count = min(BLOCK, len(scores) // width - start)
        _copy(rows, start, count, scores, width)
        _exponentials(rows, sums, count, width, lanes)
        _scatter(rows, sums, start, count, first, width, lanes)
        _scatter(rows, sums, start, count, second, width, lanes)


@njit(nogil=True, cache=True, error_model="numpy")
def labels_of(labels, scores, first, second, factors, matrix, classes, width, lanes):
    """The last slice (without kernels, none): write the best classes, int32 [pixels]."""
    rows = np.empty(BLOCK * width, np.float32)
    for start in range(0, len(labels), BLOCK):
        count = min(BLOCK, len(labels) - start)
        if first is None:
            _copy(rows, start, count, scores, width)
        else:
            _logits(rows, start, count, scores, first, second, factors, matrix, width, lanes)
        _best(labels[start : start + count], rows, classes, width)


@njit(nogil=True, cache=True, error_model="numpy")
def probabilities_of(result, scores, first, second, factors, matrix, width, lanes):
    """The last slice (without kernels, none): write the softmax to float32 [classes, pixels]."""
    classes, pixels = result.shape
    rows, sums = np.empty(BLOCK * width, np.float32), np.empty(BLOCK, np.float32)
    for start in range(0, pixels, BLOCK):
        count = min(BLOCK, pixels - start)
        if first is None:
            _copy(rows, start, count, scores, width)
        else:
            _logits(rows, start, count, scores, first, second, factors, matrix, width, lanes)
        _exponentials(rows, sums, count, width, lanes)
        for c in range(classes):
            for q in range(count):
                result[c, start + q] = rows[q * width + c] / sums[q]


@njit(nogil=True, cache=True, error_model="numpy")
def _copy(rows, start, count, scores, width):
    for i in range(count * width):
        poke(rows, i, peek(scores, start * width + i))


@njit(nogil=True, cache=True, error_model="numpy")
def _logits(rows, start, count, scores, first, second, factors, matrix, width, lanes):
    """Scores plus messages of a block of pixels; see `Compatibility` for factors and matrix."""
    for part in range(0, width, len(lanes)):
        for q in range(count):
            score = load(scores, (start + q) * width + part, lanes)
            x = score if factors is None and matrix is None else zeros(lanes)
            at = (start + q) * len(first.corners)
            for r in range(len(first.corners)):
                y = load(first.old, np.int64(peek(first.vertices, at + r)) + part, lanes)
                x = scale_add(y, peek(first.out, at + r), x)
            at = (start + q) * len(second.corners)
            for r in range(len(second.corners)):
                y = load(second.old, np.int64(peek(second.vertices, at + r)) + part, lanes)
                x = scale_add(y, peek(second.out, at + r), x)
            if factors is not None:
                x = multiply_add(x, load(factors, part, lanes), score)
            store(rows, q * width + part, x)
    if matrix is not None:
        _mix(rows, start, count, scores, matrix, width, lanes)


@njit(nogil=True, cache=True, error_model="numpy")
def _mix(rows, start, count, scores, matrix, width, lanes):
    """Scores plus the matrix times the messages, in place of the messages."""
    message = np.empty(width, np.float32)
    for q in range(count):
        message[:] = rows[q * width : (q + 1) * width]
        for part in range(0, width, len(lanes)):
            x = load(scores, (start + q) * width + part, lanes)
            for c in range(width):
                x = scale_add(load(matrix[c], part, lanes), message[c], x)
            store(rows, q * width + part, x)


@njit(nogil=True, cache=True, error_model="numpy")
def _exponentials(rows, sums, count, width, lanes):
    """Rows become e^(x - max x), sums their sums."""
    for q in range(count):
        shift = largest(load(rows, q * width, lanes))
        for part in range(len(lanes), width, len(lanes)):
            shift = max(shift, largest(load(rows, q * width + part, lanes)))
        poke(sums, q, shift)
    for q in range(count):
        shift = peek(sums, q)
        for part in range(0, width, len(lanes)):
            at = q * width + part
            store(rows, at, exponential(load(rows, at, lanes), shift))
    for q in range(count):
        sum = total(load(rows, q * width, lanes))
        for part in range(len(lanes), width, len(lanes)):
            sum += total(load(rows, q * width + part, lanes))
        poke(sums, q, sum)


@njit(nogil=True, cache=True, error_model="numpy")
def _scatter(rows, sums, start, count, passage, width, lanes):
    """Add each row, divided by its sum, times the weights, to the values at the pixel's vertices."""
    for part in range(0, width, len(lanes)):
        for q in range(count):
            x = load(rows, q * width + part, lanes)
            inverse = ONE / peek(sums, q)
            at = (start + q) * len(passage.corners)
            for r in range(len(passage.corners)):
                to = np.int64(peek(passage.vertices, at + r)) + part
                y = load(passage.new, to, lanes)
                store(passage.new, to, scale_add(x, peek(passage.into, at + r) * inverse, y))


@njit(nogil=True, cache=True, error_model="numpy")
def _best(labels, rows, classes, width):
    """Write the classes of the largest numbers; returns how many pixels had another label."""
    changed = 0
    for q in range(len(labels)):
        best, highest = 0, peek(rows, q * width)
        for c in range(1, classes):
            x = peek(rows, q * width + c)
            if x > highest:
                best, highest = c, x
        changed += labels[q] != best
        labels[q] = best
    return changed


@njit(nogil=True, cache=True, error_model="numpy")
def blurred_ones(vertices, weights, points, chains):
    """Splat and blur ones: float32 [points + 1], the last of which is 0."""
    values = np.zeros(points + 1, np.float32)
    for p in range(len(vertices)):
        for r in range(vertices.shape[1]):
            values[vertices[p, r]] += weights[p, r]
    for chain in chains:
        j = np.int64(peek(chain, 0))
        i = j ^ (j >> 63)
        here = peek(values, i)
        before, half_before = here, NOTHING
        for k in range(1, len(chain)):
            half_after, at = HALF if j >= 0 else NOTHING, i
            j = np.int64(peek(chain, k))
            i = j ^ (j >> 63)
            after = peek(values, i)
            poke(values, at, here + half_before * before + half_after * after)
            before, here, half_before = here, after, half_after
    return values


@njit(nogil=True, cache=True, error_model="numpy")
def normalised(ones, vertices, weights, factor, gain, power):
    """Weights times a factor, over a power (0, 1/2 or 1) of each pixel's sum over all others: the slice of the ones."""
    result = np.empty_like(weights)
    for p in range(len(vertices)):
        sum = np.float32(0)
        for r in range(vertices.shape[1]):
            sum += weights[p, r] * ones[vertices[p, r]]
        sum = max(sum * gain, np.float32(1e-20))
        scale = factor if power == 0 else (factor / np.sqrt(sum) if power == HALF else factor / sum)
        for r in range(vertices.shape[1]):
            result[p, r] = weights[p, r] * scale
    return result
