"""The sums that a kernel's filter is normalised by."""

import numpy as np
from numba import njit

from pipeline.crf.filtering import HALF, NOTHING, ONE
from pipeline.crf.lanes import peek, poke


@njit(nogil=True, cache=True, error_model="numpy")
def blurred_ones(vertices, weights, counts, points, chains, corners):
    """Splat and blur as many ones as each sample stands for: float32 [points]. Vertices and weights as in `Passage`."""
    values = np.zeros(points, np.float32)
    n = len(corners)
    for p in range(len(counts)):
        count = peek(counts, p)
        for r in range(len(corners)):
            i = np.int64(peek(vertices, 2 * n * p + r))
            poke(values, i, peek(values, i) + count * peek(weights, 2 * n * p + n + r))
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
def normalise(vertices, weights, ratios, ones, factor, gain, before, after, corners):
    """Multiply the weights, in place, by a factor and by a power (0, -1/2 or -1) of each sample's sum over all others,
    which is the slice of the ones; and the ratios by what the splat has instead."""
    n = len(corners)
    for p in range(len(ratios)):
        sum = NOTHING
        for r in range(len(corners)):
            sum += peek(weights, 2 * n * p + n + r) * peek(ones, np.int64(peek(vertices, 2 * n * p + r)))
        sum = max(sum * gain, np.float32(1e-20))
        scale = factor * _power(sum, after)
        for r in range(len(corners)):
            poke(weights, 2 * n * p + n + r, peek(weights, 2 * n * p + n + r) * scale)
        if before != after:
            poke(ratios, p, peek(ratios, p) * _power(sum, before) / _power(sum, after))


@njit(nogil=True, cache=True, error_model="numpy")
def _power(x, exponent):
    return ONE if exponent == 0 else (ONE / np.sqrt(x) if exponent == -HALF else ONE / x)
