"""The permutohedral lattice: Gaussian filtering in several dimensions in time linear in the pixels.

Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010. A pixel with
features f (position and colour, each divided by its width) lies in a simplex of the lattice and shares its value among
the d + 1 vertices by its barycentric weights (splat); the lattice is blurred by [1/2, 1, 1/2] along each of its d + 1
directions; the pixel reads the vertices back with the same weights (slice).

Here the lattice is only laid out: which vertices a pixel has, and how the blur runs. `filtering` moves the values.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

FREE = np.int64(-(2**63))  # no key
NONE = np.int32(-1)
BLOCK = 128  # pixels


class Lattice(NamedTuple):
    """Where pixels lie in a lattice.

    Attributes:
        points: how many lattice points are in use.
        vertices: int32 [pixels, d + 1], the points around each pixel.
        weights: float32 [pixels, d + 1], its barycentric weights; they sum to 1.
        chains: for each of the d + 1 directions the points, int32, in the order of a walk along it. The last point i of
            a chain is written as ~i; chains of a single point, which a blur leaves as they are, are left out.
    """

    points: int
    vertices: NDArray[np.int32]
    weights: NDArray[np.float32]
    chains: tuple[NDArray[np.int32], ...]

    @property
    def dimensions(self) -> int:
        return self.vertices.shape[1] - 1

    @property
    def gain(self) -> float:
        """What splat, blur and slice multiply a constant by, inverted: 1 / (1 + 2^-d)."""
        return 1 / (1 + 2.0**-self.dimensions)


def build_lattice(features: NDArray[np.float32]) -> Lattice:
    """Lay out the lattice of some pixels.

    Args:
        features: float32 [pixels, d], in units of the Gaussian's width, finite.
    """
    pixels, d = features.shape
    scale = np.array([(d + 1) * np.sqrt(2 / 3) / np.sqrt((i + 1) * (i + 2)) for i in range(d)], np.float32)
    radix, origin = _packing(features, scale)
    vertices = np.empty((pixels, d + 1), np.int32)
    weights = np.empty((pixels, d + 1), np.float32)
    keys, table, numbers = _embed(features, scale, radix, origin, vertices, weights, (0,) * (d + 1))
    chains = tuple(_walk(keys, table, numbers, step) for step in _steps(radix))
    return Lattice(len(keys), vertices, weights, chains)


def _packing(features: NDArray[np.float32], scale: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Factors and offsets that make one 64-bit key of a lattice point's first d coordinates, so that a neighbour's key
    is the point's plus a constant.

    The key is exact where the coordinates' ranges fit 64 bits, which they do for position and colour. With more
    dimensions the factors are random odd numbers, modulo 2^64: two of a million points then share a key with a
    probability of 3e-8.
    """
    d = features.shape[1]
    smallest, largest = _bounds(features)
    low, high = smallest * scale, largest * scale
    # elevated_j = sum over i >= j of f_i - j f_(j-1), each times its scale; a vertex is less than d + 1 from it, its
    # neighbours d more.
    tail_low, tail_high = np.cumsum(low[::-1])[::-1], np.cumsum(high[::-1])[::-1]
    margin = 3 * (d + 1)
    bottom = [int(np.floor(tail_low[j] - (j * high[j - 1] if j else 0))) - margin for j in range(d)]
    top = [int(np.ceil(tail_high[j] - (j * low[j - 1] if j else 0))) + margin for j in range(d)]
    radix, size = [], 1
    for j in range(d):
        radix.append(size)
        size *= top[j] - bottom[j] + 1
    if size >= 2**62:
        random = np.random.default_rng(0)
        radix = [int(random.integers(2**61, 2**62)) | 1 for _ in range(d)]
    return np.array(radix, np.int64), np.array(bottom, np.int64)


@njit(nogil=True, cache=True)
def _bounds(features):
    """The smallest and largest value of each feature (NumPy takes ten times as long along a short last axis)."""
    low, high = features[0].copy(), features[0].copy()
    for p in range(len(features)):
        for j in range(features.shape[1]):
            low[j] = min(low[j], features[p, j])
            high[j] = max(high[j], features[p, j])
    return low, high


def _steps(radix: NDArray[np.int64]) -> list[np.int64]:
    """What the d + 1 directions add to a key: 1 to every coordinate but one, which loses d."""
    d = len(radix)
    ones = np.full(d + 1, radix.sum(dtype=np.int64))
    ones[:d] -= (d + 1) * radix  # arrays wrap around modulo 2^64 in silence
    return list(ones)


@njit(nogil=True, cache=True)
def _slot(table, key):
    """Where a key is in a table, or the free place where it belongs."""
    mask = np.uint64(len(table) - 1)
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    slot = (mixed >> np.uint64(24)) & mask
    while table[slot] != key and table[slot] != FREE:
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(nogil=True, cache=True)
def _table(keys, points, size):
    """A hash table of the first keys, and their numbers beside it."""
    table, numbers = np.full(size, FREE, np.int64), np.empty(size, np.int32)
    for i in range(points):
        slot = _slot(table, keys[i])
        table[slot], numbers[slot] = keys[i], i
    return table, numbers


@njit(nogil=True, cache=True)
def _embed(features, scale, radix, origin, vertices, weights, corners):
    """Fill vertices and weights; the points' keys and their hash table.

    Pixels go in blocks, so that all but the look-up is vector instructions over a block.
    """
    pixels, d = len(features), len(corners) - 1
    keys = np.empty(1 << 14, np.int64)
    table, numbers = _table(keys, 0, 1 << 16)
    points = 0
    block_keys, block_weights = np.empty((d + 1, BLOCK), np.int64), np.empty((d + 1, BLOCK), np.float32)
    for start in range(0, pixels, BLOCK):
        count = min(BLOCK, pixels - start)
        _simplices(features, start, count, scale, radix, origin, block_keys, block_weights, corners)
        for q in range(count):
            for r in range(len(corners)):
                key = block_keys[r, q]
                slot = _slot(table, key)
                if table[slot] == FREE:
                    if points == len(keys):
                        keys = np.concatenate((keys, np.empty_like(keys)))
                    table[slot], numbers[slot], keys[points] = key, points, key
                    points += 1
                    if 3 * points > len(table):
                        table, numbers = _table(keys, points, 4 * len(table))
                        slot = _slot(table, key)
                vertices[start + q, r] = numbers[slot]
                weights[start + q, r] = block_weights[r, q]
    return keys[:points].copy(), table, numbers


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _simplices(features, start, count, scale, radix, origin, keys, weights, corners):
    """The keys of the vertices around some pixels and the barycentric weights (Adams et al., section 3.1)."""
    n, d = len(corners), len(corners) - 1
    elevated = np.zeros((n, BLOCK), np.float32)
    base = np.zeros((n, BLOCK), np.int32)
    rank = np.zeros((n, BLOCK), np.int32)
    beyond = np.zeros((n, BLOCK), np.float32)
    total = np.zeros(BLOCK, np.float32)
    excess = np.zeros(BLOCK, np.int32)
    down = np.float32(1) / np.float32(n)
    # Elevate to the hyperplane of coordinates that sum to 0.
    for j in range(d, 0, -1):
        for q in range(count):
            f = features[start + q, j - 1] * scale[j - 1]
            elevated[j, q] = total[q] - np.float32(j) * f
            total[q] += f
    for q in range(BLOCK):
        elevated[0, q] = total[q]
    # The nearest point whose coordinates are multiples of d + 1.
    for j in range(n):
        for q in range(BLOCK):
            nearest = np.int32(np.rint(elevated[j, q] * down))
            base[j, q] = nearest * n
            beyond[j, q] = elevated[j, q] - np.float32(nearest * n)
            excess[q] += nearest
    for j in range(d):
        for k in range(j + 1, n):
            for q in range(BLOCK):
                less = np.int32(beyond[j, q] < beyond[k, q])
                rank[j, q] += less
                rank[k, q] += 1 - less
    # Back into the plane, if rounding left it.
    for j in range(n):
        for q in range(BLOCK):
            moved = rank[j, q] + excess[q]
            shift = np.int32(n * (np.int32(moved < 0) - np.int32(moved > d)))
            rank[j, q] = moved + shift
            base[j, q] += shift
            beyond[j, q] = (elevated[j, q] - np.float32(base[j, q])) * down
    # Vertex r is base + r, less d + 1 in the coordinates whose rank exceeds d - r.
    for r in range(n):
        for q in range(BLOCK):
            weights[r, q] = np.float32(r == 0)
            keys[r, q] = 0
        for j in range(n):
            for q in range(BLOCK):
                here = np.float32(rank[j, q] == d - r) - np.float32(rank[j, q] == (n - r if r else 0))
                weights[r, q] += here * beyond[j, q]
        for j in range(d):
            for q in range(BLOCK):
                coordinate = base[j, q] + r - n * np.int32(rank[j, q] > d - r)
                keys[r, q] += (np.int64(coordinate) - origin[j]) * radix[j]


@njit(nogil=True, cache=True)
def _walk(keys, table, numbers, step):
    """A direction's chains of two points or more, one after the other."""
    points = len(keys)
    following = np.empty(points, np.int32)
    first = np.ones(points, np.bool_)
    for i in range(points):
        key = keys[i] + step
        slot = _slot(table, key)
        following[i] = NONE
        if table[slot] == key:
            following[i] = numbers[slot]
            first[numbers[slot]] = False
    chain = np.empty(points, np.int32)
    n = 0
    for i in range(points):
        if first[i] and following[i] != NONE:
            j = np.int32(i)
            while following[j] != NONE:
                chain[n] = j
                n += 1
                j = following[j]
            chain[n] = ~j
            n += 1
    return chain[:n].copy()
