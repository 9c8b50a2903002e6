"""The compiled loops of mean-field inference: message passing and softmax over rows of class scores.

All arrays are flat. A row holds the float32 values of one sample or one lattice point: `width` numbers, one lane for
each class and some for padding. The loops process a row in parts of `len(lanes)` numbers, which divides `width` and
fits the registers; Numba compiles one variant for each number of lanes. The scores of samples are stored row by row.
The values of a lattice are stored part by part (the first parts of all points, then the second parts, and so on), so
that a part is found at the point's index times a constant. `corners` is a tuple with one entry for each vertex of a
simplex, because Numba unrolls loops over the length of a tuple.

A step visits the samples in groups, and each group in several short loops. In one long loop per sample the processor
would wait for each sample's chain of additions, maximum, exponential and sum before it reached the next sample.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.crf.compiling import njit
from pipeline.crf.lanes import (
    broadcast,
    divide,
    exponential,
    lane_maximum,
    lane_sum,
    load,
    logarithm,
    multiply_add,
    peek,
    poke,
    scale_add,
    store,
)

GROUP_SAMPLES = 16  # samples visited together
GROUP_LANES = (0,) * GROUP_SAMPLES  # for vectors with one lane for each sample of a group
ZERO = np.float32(0)
HALF = np.float32(0.5)
ONE = np.float32(1)
MIN_DOUBT = np.float32(1e-7)  # added to 1 / max Q - 1, so that it is never 0; float32 resolves no smaller doubt
CONTESTED = np.float32(1.7)  # a sample with 1 / max Q of at least this has not settled, whatever its pace


class LatticeState(NamedTuple):
    """The lattice of one kernel with its values during a mean-field step.

    Attributes:
        vertices: int32 [samples · 2 (d + 1)], for each sample the d + 1 lattice points around it, followed by the bits
            of the d + 1 weights with which they are sliced.
        weights: float32 view of the same memory.
        splat_ratios: float32 [samples], weights in the splat divided by those in the slice.
        corners: tuple of d + 1 zeros.
        slice_values: float32 [points · width], splat in the previous step, then blurred and sliced in this one.
        splat_values: float32 [points · width], splat in this step; begins as a copy of `settled_values`.
        settled_values: float32 [points · width], splat of all samples that have settled.
    """

    vertices: NDArray[np.int32]
    weights: NDArray[np.float32]
    splat_ratios: NDArray[np.float32]
    corners: tuple[int, ...]
    slice_values: NDArray[np.float32]
    splat_values: NDArray[np.float32]
    settled_values: NDArray[np.float32]


class Compatibility(NamedTuple):
    """The compatibility transform of the messages; with neither attribute it is Potts' model.

    Attributes:
        factors: float32 [width], factor of each lane's message.
        matrix: float32 [width, width], minus the penalties; a row is the neighbour's class.
    """

    factors: NDArray[np.float32] | None
    matrix: NDArray[np.float32] | None


@njit(nogil=True, cache=True, error_model="numpy")
def blur(values, chain, width, lanes):
    """Blur lattice values by [1/2, 1, 1/2] along the chains of one direction, in place.

    Each row is read once and written once. Most chains are short, so a branch at their ends would be mispredicted at
    every other point: a neighbour beyond an end is instead read and multiplied by zero.

    Args:
        values: float32 [points · width].
        chain: int32, see `Lattice.chains`.
        width: length of a row.
        lanes: tuple as long as a part of a row.
    """
    for part in range(0, len(values), len(values) // width * len(lanes)):
        # A chain's end is stored as ~i: a negative j stands for the point ~j, here without a branch.
        j = np.int64(peek(chain, 0))
        i = j ^ (j >> 63)
        here = load(values, i * len(lanes) + part, lanes)
        before, before_weight = here, ZERO
        for k in range(1, len(chain)):
            after_weight = HALF if j >= 0 else ZERO
            at = i * len(lanes) + part
            j = np.int64(peek(chain, k))
            i = j ^ (j >> 63)
            after = load(values, i * len(lanes) + part, lanes)
            store(values, at, scale_add(after, after_weight, scale_add(before, before_weight, here)))
            before, here, before_weight = here, after, after_weight


@njit(nogil=True, cache=True, error_model="numpy")
def initialise(scores, certainty, bilateral, spatial, width, lanes):
    """Splat Q = softmax(scores), the initial distribution, into both lattices; see `mean_field_step`."""
    rows, sums = np.empty(GROUP_SAMPLES * width, np.float32), np.ones(GROUP_SAMPLES, np.float32)
    samples = len(scores) // width
    for start in range(0, samples, GROUP_SAMPLES):
        count = min(GROUP_SAMPLES, samples - start)
        _copy_scores(rows, start, count, scores, width)
        _softmax_terms(rows, sums, count, width, lanes)
        store(certainty, start, logarithm(_odds(sums), ONE))
        _splat(rows, sums, start, count, bilateral, bilateral.splat_values, spatial, spatial.splat_values, width, lanes)


@njit(nogil=True, cache=True, error_model="numpy")
def mean_field_step(
    scores, groups, certainty, labels, bilateral, spatial, factors, matrix, tolerance, patience, width, lanes
):
    """Run a mean-field step in one pass: slice both kernels, add the scores, take the softmax, splat into both kernels.

    A group of samples whose probabilities have settled is also splat into the settled values and is not visited again.

    Args:
        scores: float32 [samples · width], log-probabilities.
        groups: int32, first sample of each group to visit. Those to visit in the next step are moved to the front.
        certainty: float32 [samples, rounded up to whole groups], log 1 / (1 - max Q); updated.
        labels: int32 [samples], best lanes, updated to count changes; or None.
        bilateral: lattice state of the bilateral kernel.
        spatial: lattice state of the spatial kernel.
        factors: see `Compatibility`.
        matrix: see `Compatibility`.
        tolerance: see `_has_settled`.
        patience: see `_has_settled`.
        width: length of a row.
        lanes: tuple as long as a part of a row.

    Returns:
        The number of groups to visit in the next step, and the number of samples whose label changed.
    """
    rows, sums = np.empty(GROUP_SAMPLES * width, np.float32), np.ones(GROUP_SAMPLES, np.float32)
    samples = len(scores) // width
    changed = remaining = 0
    for i in range(len(groups)):
        start = np.int64(peek(groups, i))
        count = min(GROUP_SAMPLES, samples - start)
        _logits(rows, start, count, scores, bilateral, spatial, factors, matrix, width, lanes)
        if labels is not None:
            changed += _update_labels(labels, rows, start, count, width, width)
        _softmax_terms(rows, sums, count, width, lanes)
        _splat(rows, sums, start, count, bilateral, bilateral.splat_values, spatial, spatial.splat_values, width, lanes)
        if _has_settled(sums, certainty, start, tolerance, patience):
            _splat(
                rows, sums, start, count, bilateral, bilateral.settled_values, spatial, spatial.settled_values,
                width, lanes,
            )  # fmt: skip
        else:
            poke(groups, remaining, np.int32(start))
            remaining += 1
    return remaining, changed


@njit(nogil=True, cache=True, error_model="numpy")
def final_labels(scores, bilateral, spatial, factors, matrix, classes, width, lanes):
    """Slice a last time and return the best of the first `classes` lanes, int32 [samples].

    Without lattice states (None) the scores alone decide.
    """
    rows, samples = np.empty(GROUP_SAMPLES * width, np.float32), len(scores) // width
    labels = np.zeros(samples, np.int32)
    for start in range(0, samples, GROUP_SAMPLES):
        count = min(GROUP_SAMPLES, samples - start)
        if bilateral is None:
            _copy_scores(rows, start, count, scores, width)
        else:
            _logits(rows, start, count, scores, bilateral, spatial, factors, matrix, width, lanes)
        _update_labels(labels, rows, start, count, classes, width)
    return labels


@njit(nogil=True, cache=True, error_model="numpy")
def final_probabilities(result, scores, bilateral, spatial, factors, matrix, width, lanes):
    """Slice a last time and write the softmax to `result`, float32 [used lanes, samples].

    Without lattice states (None) it is the softmax of the scores.
    """
    used, samples = result.shape
    rows, sums = np.empty(GROUP_SAMPLES * width, np.float32), np.empty(GROUP_SAMPLES, np.float32)
    for start in range(0, samples, GROUP_SAMPLES):
        count = min(GROUP_SAMPLES, samples - start)
        if bilateral is None:
            _copy_scores(rows, start, count, scores, width)
        else:
            _logits(rows, start, count, scores, bilateral, spatial, factors, matrix, width, lanes)
        _softmax_terms(rows, sums, count, width, lanes)
        for c in range(used):
            for k in range(count):
                result[c, start + k] = rows[k * width + c] / sums[k]


@njit(nogil=True, cache=True, error_model="numpy")
def _copy_scores(rows, start, count, scores, width):
    for i in range(count * width):
        poke(rows, i, peek(scores, start * width + i))


@njit(nogil=True, cache=True, error_model="numpy")
def _odds(sums):
    """Return 1 / (1 - max Q) of a group's samples, where sums holds 1 / max Q, the sum of e^(x - max x)."""
    inverse_q = load(sums, 0, GROUP_LANES)
    return divide(inverse_q, scale_add(broadcast(ONE, GROUP_LANES), MIN_DOUBT - ONE, inverse_q))


@njit(nogil=True, cache=True, error_model="numpy")
def _has_settled(sums, certainty, start, tolerance, patience):
    """Whether all samples of a group have settled. Also updates their certainty.

    With e = 1 - max Q, a logit that moves by D relative to the others changes no probability by more than
    e (exp D - 1), so a change of less than the tolerance leaves room for D = log(1 + tolerance / e). A sample has
    settled if, at the pace of its last step, it would take more than `patience` steps to move that far. Paces decrease
    from step to step. If a sample settles too early, the last slice corrects its own result; its error remains only in
    the messages to other samples.
    """
    odds = _odds(sums)
    now, zeros = logarithm(odds, ONE), broadcast(ZERO, GROUP_LANES)
    pace = scale_add(load(certainty, start, GROUP_LANES), -ONE, now)
    store(certainty, start, now)
    room = logarithm(scale_add(odds, tolerance, broadcast(ONE, GROUP_LANES)), ONE)
    excess = max(
        lane_maximum(scale_add(pace, patience, scale_add(room, -ONE, zeros))),
        lane_maximum(scale_add(pace, -patience, scale_add(room, -ONE, zeros))),
    )
    return excess < 0 and lane_maximum(load(sums, 0, GROUP_LANES)) < CONTESTED


@njit(nogil=True, cache=True, error_model="numpy")
def _logits(rows, start, count, scores, bilateral, spatial, factors, matrix, width, lanes):
    """Write scores plus messages of a group's samples; see `Compatibility` for factors and matrix."""
    n, m = len(bilateral.corners), len(spatial.corners)
    for part in range(0, width, len(lanes)):
        bilateral_part = len(bilateral.slice_values) // width * part
        spatial_part = len(spatial.slice_values) // width * part
        for k in range(count):
            score = load(scores, (start + k) * width + part, lanes)
            x = score if factors is None and matrix is None else broadcast(ZERO, lanes)
            at = (start + k) * 2 * n
            for r in range(len(bilateral.corners)):
                i = np.int64(peek(bilateral.vertices, at + r)) * len(lanes) + bilateral_part
                x = scale_add(load(bilateral.slice_values, i, lanes), peek(bilateral.weights, at + n + r), x)
            at = (start + k) * 2 * m
            for r in range(len(spatial.corners)):
                i = np.int64(peek(spatial.vertices, at + r)) * len(lanes) + spatial_part
                x = scale_add(load(spatial.slice_values, i, lanes), peek(spatial.weights, at + m + r), x)
            if factors is not None:
                x = multiply_add(x, load(factors, part, lanes), score)
            store(rows, k * width + part, x)
    if matrix is not None:
        _apply_matrix(rows, start, count, scores, matrix, width, lanes)


@njit(nogil=True, cache=True, error_model="numpy")
def _apply_matrix(rows, start, count, scores, matrix, width, lanes):
    """Replace the messages in `rows` by the scores plus the compatibility matrix times the messages."""
    message = np.empty(width, np.float32)
    for k in range(count):
        message[:] = rows[k * width : (k + 1) * width]
        for part in range(0, width, len(lanes)):
            x = load(scores, (start + k) * width + part, lanes)
            for c in range(width):
                x = scale_add(load(matrix[c], part, lanes), message[c], x)
            store(rows, k * width + part, x)


@njit(nogil=True, cache=True, error_model="numpy")
def _softmax_terms(rows, sums, count, width, lanes):
    """Replace each row x by e^(x - max x), and write the sum of each row; their quotient is the softmax."""
    for k in range(count):
        shift = lane_maximum(load(rows, k * width, lanes))
        for part in range(len(lanes), width, len(lanes)):
            shift = max(shift, lane_maximum(load(rows, k * width + part, lanes)))
        poke(sums, k, shift)
    for k in range(count):
        shift = peek(sums, k)
        for part in range(0, width, len(lanes)):
            at = k * width + part
            store(rows, at, exponential(load(rows, at, lanes), shift))
    for k in range(count):
        row_sum = lane_sum(load(rows, k * width, lanes))
        for part in range(len(lanes), width, len(lanes)):
            row_sum += lane_sum(load(rows, k * width + part, lanes))
        poke(sums, k, row_sum)


@njit(nogil=True, cache=True, error_model="numpy")
def _splat(rows, sums, start, count, bilateral, bilateral_values, spatial, spatial_values, width, lanes):
    """Add the rows of a group, divided by their sums, to the values of both lattices at the samples' vertices.

    Both lattices share one loop: consecutive samples often share a point, and an addition to it waits for the previous
    one, during which the other lattice's additions proceed.
    """
    n, m = len(bilateral.corners), len(spatial.corners)
    for part in range(0, width, len(lanes)):
        bilateral_part = len(bilateral_values) // width * part
        spatial_part = len(spatial_values) // width * part
        for k in range(count):
            x, inverse = load(rows, k * width + part, lanes), ONE / peek(sums, k)
            scale, at = peek(bilateral.splat_ratios, start + k) * inverse, (start + k) * 2 * n
            for r in range(len(bilateral.corners)):
                i = np.int64(peek(bilateral.vertices, at + r)) * len(lanes) + bilateral_part
                weight = peek(bilateral.weights, at + n + r) * scale
                store(bilateral_values, i, scale_add(x, weight, load(bilateral_values, i, lanes)))
            scale, at = peek(spatial.splat_ratios, start + k) * inverse, (start + k) * 2 * m
            for r in range(len(spatial.corners)):
                i = np.int64(peek(spatial.vertices, at + r)) * len(lanes) + spatial_part
                weight = peek(spatial.weights, at + m + r) * scale
                store(spatial_values, i, scale_add(x, weight, load(spatial_values, i, lanes)))


@njit(nogil=True, cache=True, error_model="numpy")
def _update_labels(labels, rows, start, count, classes, width):
    """Write the best lane of each row and return the number of samples whose label changed."""
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
