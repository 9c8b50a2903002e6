"""Normalisation of a kernel by its row sums."""

import numpy as np

from pipeline.crf.compiling import njit
from pipeline.crf.filtering import HALF, ONE, ZERO
from pipeline.crf.lanes import peek, poke


@njit(nogil=True, cache=True, error_model="numpy")
def blurred_ones(vertices, weights, counts, points, chains, corners):
    """Splat one for each pixel and blur, which leaves the kernel's row sums to be sliced; returns float32 [points].

    Args:
        vertices: see `LatticeState`.
        weights: barycentric weights, laid out as in `LatticeState`.
        counts: float32 [samples], number of pixels that each sample represents.
        points: number of lattice points.
        chains: see `Lattice.chains`.
        corners: tuple of d + 1 zeros.
    """
    values = np.zeros(points, np.float32)
    n = len(corners)
    for p in range(len(counts)):
        count = peek(counts, p)
        for r in range(len(corners)):
            i = np.int64(peek(vertices, 2 * n * p + r))
            poke(values, i, peek(values, i) + count * peek(weights, 2 * n * p + n + r))
    for chain in chains:  # the scalar version of `filtering.blur`
        j = np.int64(peek(chain, 0))
        i = j ^ (j >> 63)
        here = peek(values, i)
        before, before_weight = here, ZERO
        for k in range(1, len(chain)):
            after_weight, at = HALF if j >= 0 else ZERO, i
            j = np.int64(peek(chain, k))
            i = j ^ (j >> 63)
            after = peek(values, i)
            poke(values, at, here + before_weight * before + after_weight * after)
            before, here, before_weight = here, after, after_weight
    return values


@njit(nogil=True, cache=True, error_model="numpy")
def normalise(vertices, weights, splat_ratios, ones, factor, slice_scale, before, after, corners):
    """Multiply slice weights and splat ratios, in place, by powers of the kernel's row sums.

    Args:
        vertices: see `LatticeState`.
        weights: barycentric weights; become the weights of the slice.
        splat_ratios: number of pixels of each sample; become the ratios of splat weights to slice weights.
        ones: result of `blurred_ones`.
        factor: multiplies all weights.
        slice_scale: see `Lattice.slice_scale`.
        before: power of the row sums in the splat: 0, -1/2 or -1.
        after: power of the row sums in the slice: 0, -1/2 or -1.
        corners: tuple of d + 1 zeros.
    """
    n = len(corners)
    for p in range(len(splat_ratios)):
        row_sum = ZERO
        for r in range(len(corners)):
            row_sum += peek(weights, 2 * n * p + n + r) * peek(ones, np.int64(peek(vertices, 2 * n * p + r)))
        row_sum = max(row_sum * slice_scale, np.float32(1e-20))
        scale = factor * _power(row_sum, after)
        for r in range(len(corners)):
            poke(weights, 2 * n * p + n + r, peek(weights, 2 * n * p + n + r) * scale)
        if before != after:
            poke(splat_ratios, p, peek(splat_ratios, p) * _power(row_sum, before) / _power(row_sum, after))


@njit(nogil=True, cache=True, error_model="numpy")
def _power(x, exponent):
    return ONE if exponent == 0 else (ONE / np.sqrt(x) if exponent == -HALF else ONE / x)
