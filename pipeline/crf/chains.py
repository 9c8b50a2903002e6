"""The order in which the blur along one direction of the lattice visits the points.

A chain is a maximal run of lattice points in which each is the neighbour of the one before it along the direction. The
blur walks along the chains and so reads and writes each point once.
"""

import numpy as np

from pipeline.crf.compiling import njit
from pipeline.crf.hashing import find_slot, first_slot
from pipeline.crf.lanes import peek, poke


@njit(nogil=True, cache=True)
def chains_along(points, keys, table, step):
    """Return the chains of at least two points along one direction, concatenated; see `Lattice.chains`.

    The work is split into short loops with at most one dependent memory access each, so that the processor overlaps
    the cache misses of several points.

    Args:
        points: number of lattice points.
        keys: keys of the points.
        table: hash table of the points; see `hashing`.
        step: difference between the key of a point and that of its neighbour along the direction.
    """
    following = _neighbours(points, keys, table, step)
    is_head = np.ones(points + 1, np.uint8)  # the last entry takes the writes of points without a neighbour
    for i in range(points):
        after = np.int64(peek(following, i))
        poke(is_head, after if after >= 0 else points, np.uint8(0))
    heads, chains, length = np.empty(points, np.int32), np.int64(0), np.int64(0)
    for i in range(points):
        poke(heads, chains, np.int32(i))
        has_next = np.int64(peek(following, i) >= 0)
        chains += has_next & np.int64(peek(is_head, i))
        length += has_next
    order = np.empty(length + chains + 1, np.int32)
    n = 0
    for k in range(chains):
        j = peek(heads, k)
        while j >= 0:
            after = peek(following, np.int64(j))
            poke(order, n, j if after >= 0 else ~j)
            n += 1
            j = after
    poke(order, n, np.int32(0))
    return order


@njit(nogil=True, cache=True)
def _neighbours(points, keys, table, step):
    """Return each point's neighbour along a direction, or -1.

    About half of the points have a neighbour, so a branch would be mispredicted every other time.
    """
    following = np.empty(points, np.int32)
    for i in range(points):
        key = peek(keys, i) + step
        point = np.int64(peek(table, first_slot(key, table)))
        found = np.int64(point >= 0) & np.int64(peek(keys, point & ~(point >> 63)) == key)
        if np.int64(point >= 0) & (1 - found):  # the slot holds another key: probe further
            point = np.int64(peek(table, find_slot(key, keys, table)))
            found = np.int64(point >= 0)
        poke(following, i, np.int32(point if found else -1))
    return following
