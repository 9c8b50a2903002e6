"""A hash table that finds a number by its 64-bit key: open addressing, linear probing.

`keys` holds the keys by number, `table` the numbers where the keys' hashes point to, or -1; its length is a power of
two, and several times the numbers.
"""

import numpy as np
from numba import njit

from pipeline.crf.lanes import peek, poke


@njit(nogil=True, cache=True)
def mixed(key):
    """Fibonacci hashing: the upper bits are as good as random."""
    return np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)


@njit(nogil=True, cache=True)
def home(key, table):
    """Where a key's search in a table begins."""
    return np.int64((mixed(key) >> np.uint64(24)) & np.uint64(len(table) - 1))


@njit(nogil=True, cache=True)
def slot_of(key, keys, table):
    """Where a key is in a table, or the free place where it belongs."""
    slot = home(key, table)
    number = peek(table, slot)
    while number >= 0 and peek(keys, np.int64(number)) != key:
        slot = (slot + 1) & (len(table) - 1)
        number = peek(table, slot)
    return slot


@njit(nogil=True, cache=True)
def enter(keys, points, table):
    """Enter the numbers of the first keys."""
    for i in range(points):
        poke(table, slot_of(peek(keys, i), keys, table), np.int32(i))
