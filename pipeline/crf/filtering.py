"""Values through a lattice: the loops of the mean field, one compiled variant per number of lanes.

Rows of `len(lanes)` float32 hold a pixel's classes, or a lattice point's; arrays of rows are flat. `corners` is a tuple
as long as a pixel has vertices, so that loops over them are unrolled.
"""

import numpy as np
from numba import njit

from pipeline.crf.lanes import add, exponential, largest, load, scale_add, store, total, zeros

HALF = np.float32(0.5)
ONE = np.float32(1)


@njit(nogil=True, cache=True)
def blur(values, chain, lanes):
    """[1/2, 1, 1/2] along the chains of a direction, in place: each row is read once and written once."""
    width = len(lanes)
    k, n = 0, len(chain)
    while k < n:
        before = zeros(lanes)
        i = np.int64(chain[k])
        here = load(values, i * width, lanes)
        while i >= 0:
            k += 1
            j = np.int64(chain[k])
            after = load(values, (j if j >= 0 else ~j) * width, lanes)
            store(values, i * width, scale_add(add(before, after), HALF, here))
            before, here, i = here, after, j
        store(values, ~i * width, scale_add(before, HALF, here))
        k += 1


@njit(nogil=True, cache=True, inline="always")
def gather(x, values, vertices, weights, p, corners, lanes):
    """x plus the values at a pixel's vertices, each times its weight."""
    for r in range(len(corners)):
        at = np.int64(vertices[p, r]) * len(lanes)
        x = scale_add(load(values, at, lanes), weights[p, r], x)
    return x


@njit(nogil=True, cache=True, inline="always")
def scatter(x, factor, values, vertices, weights, p, corners, lanes):
    """Add x times factor, times each weight, to the values at a pixel's vertices."""
    for r in range(len(corners)):
        at = np.int64(vertices[p, r]) * len(lanes)
        store(values, at, scale_add(x, weights[p, r] * factor, load(values, at, lanes)))


@njit(nogil=True, cache=True)
def splat(rows, vertices, weights, values, corners, lanes):
    """Add each pixel's row, times its weights, to its vertices."""
    for p in range(len(vertices)):
        scatter(load(rows, p * len(lanes), lanes), ONE, values, vertices, weights, p, corners, lanes)


@njit(nogil=True, cache=True)
def slice_into(rows, vertices, weights, values, corners, lanes):
    """Add the values at each pixel's vertices, times its weights, to its row."""
    for p in range(len(vertices)):
        x = load(rows, p * len(lanes), lanes)
        store(rows, p * len(lanes), gather(x, values, vertices, weights, p, corners, lanes))


@njit(nogil=True, cache=True)
def softmax_splat(scores, vertices1, weights1, new1, corners1, vertices2, weights2, new2, corners2, lanes):
    """Splat the softmax of each pixel's scores into two lattices."""
    for p in range(len(scores) // len(lanes)):
        x = load(scores, p * len(lanes), lanes)
        e = exponential(x, largest(x))
        inverse = ONE / total(e)
        scatter(e, inverse, new1, vertices1, weights1, p, corners1, lanes)
        scatter(e, inverse, new2, vertices2, weights2, p, corners2, lanes)


@njit(nogil=True, cache=True)
def step(scores, vertices1, out1, in1, old1, new1, corners1, vertices2, out2, in2, old2, new2, corners2, lanes):
    """A mean-field step in one pass over the pixels: slice both lattices, add the scores, softmax, splat into both.

    `out` are the weights of the slice and `in` those of the splat; they hold normalisation and compatibility already.
    """
    for p in range(len(scores) // len(lanes)):
        x = load(scores, p * len(lanes), lanes)
        x = gather(x, old1, vertices1, out1, p, corners1, lanes)
        x = gather(x, old2, vertices2, out2, p, corners2, lanes)
        e = exponential(x, largest(x))
        inverse = ONE / total(e)
        scatter(e, inverse, new1, vertices1, in1, p, corners1, lanes)
        scatter(e, inverse, new2, vertices2, in2, p, corners2, lanes)


@njit(nogil=True, cache=True)
def last_step(scores, vertices1, out1, old1, corners1, vertices2, out2, old2, corners2, result, lanes):
    """Slice both lattices and add the scores: the logits of the final distribution."""
    for p in range(len(scores) // len(lanes)):
        x = load(scores, p * len(lanes), lanes)
        x = gather(x, old1, vertices1, out1, p, corners1, lanes)
        store(result, p * len(lanes), gather(x, old2, vertices2, out2, p, corners2, lanes))
