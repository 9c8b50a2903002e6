"""A hash table from 64-bit keys to point indices, with open addressing and linear probing.

`keys[i]` is the key of point i. `table` holds a point index or -1 in each slot; its length is a power of two and
several times the number of points.
"""

import numpy as np

from pipeline.crf.compiling import njit
from pipeline.crf.lanes import peek, poke


@njit(nogil=True, cache=True)
def hash_key(key):
    """Fibonacci hashing, whose upper bits are well mixed."""
    return np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)


@njit(nogil=True, cache=True)
def first_slot(key, table):
    """Return the slot where the search for a key begins."""
    return np.int64((hash_key(key) >> np.uint64(24)) & np.uint64(len(table) - 1))


@njit(nogil=True, cache=True)
def find_slot(key, keys, table):
    """Return the slot of a key or, if the key is not in the table, the free slot where it belongs."""
    slot = first_slot(key, table)
    point = peek(table, slot)
    while point >= 0 and peek(keys, np.int64(point)) != key:
        slot = (slot + 1) & (len(table) - 1)
        point = peek(table, slot)
    return slot


@njit(nogil=True, cache=True)
def insert_all(keys, points, table):
    """Insert the first `points` points into an empty table."""
    for i in range(points):
        poke(table, find_slot(peek(keys, i), keys, table), np.int32(i))
