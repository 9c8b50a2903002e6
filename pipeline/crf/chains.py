"""A lattice's points in the order of a walk along a direction, which is how a blur takes them."""

import numpy as np
from numba import njit

from pipeline.crf.hashing import home, slot_of
from pipeline.crf.lanes import peek, poke


@njit(nogil=True, cache=True)
def chains_along(points, keys, table, step):
    """A direction's chains of two points or more, one after the other. In loops with one thing to wait for each."""
    following = _neighbours(points, keys, table, step)
    first = np.ones(points + 1, np.uint8)  # the last is for those without a neighbour
    for i in range(points):
        after = np.int64(peek(following, i))
        poke(first, after if after >= 0 else points, np.uint8(0))
    starts, chains, length = np.empty(points, np.int32), 0, 0
    for i in range(points):
        poke(starts, chains, np.int32(i))
        longer = np.int64(peek(following, i) >= 0)
        chains += longer & np.int64(peek(first, i))
        length += longer
    chain = np.empty(length + chains + 1, np.int32)
    n = 0
    for k in range(chains):
        j = peek(starts, k)
        while j >= 0:
            after = peek(following, np.int64(j))
            poke(chain, n, j if after >= 0 else ~j)
            n += 1
            j = after
    poke(chain, n, np.int32(0))
    return chain


@njit(nogil=True, cache=True)
def _neighbours(points, keys, table, step):
    """The next point of each in a direction, or -1. Half have one: a branch would be guessed wrong every other time."""
    following = np.empty(points, np.int32)
    for i in range(points):
        key = peek(keys, i) + step
        number = np.int64(peek(table, home(key, table)))
        found = np.int64(number >= 0) & np.int64(peek(keys, number & ~(number >> 63)) == key)
        if np.int64(number >= 0) & (1 - found):  # another key is in its place
            number = np.int64(peek(table, slot_of(key, keys, table)))
            found = np.int64(number >= 0)
        poke(following, i, np.int32(number if found else -1))
    return following
