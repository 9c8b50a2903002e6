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

from pipeline.crf.chains import chains_along
from pipeline.crf.hashing import enter, mixed, slot_of
from pipeline.crf.lanes import peek, poke
from pipeline.crf.memory import scratch

FREE = np.int64(-(2**63))  # no key
NONE = np.int32(-1)
BATCH_SAMPLES = 128  # pixels
FEWEST_KEYS = 1 << 15
RECENT_BITS = 9  # of the number of points that are remembered as recent ones
MAX_SPAN = 2**17  # widths of the Gaussian: float32 then leaves a coordinate 1/64


class Features(NamedTuple):
    """What pixels are compared by, in units of the Gaussian's width.

    Attributes:
        values: float32 [pixels, d], finite.
        low, high: float32 [d], bounds of theirs.
    """

    values: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]


class Index(NamedTuple):
    """Finds a lattice point by its coordinates.

    Attributes:
        scale: float32 [d], from features to the lattice's coordinates.
        radix, origin: int64 [d], from coordinates to a key; see `_packing`.
        keys: int64, of the points by number, and room for more.
        table: int32, a hash table of numbers; see `hashing`.
    """

    scale: NDArray[np.float32]
    radix: NDArray[np.int64]
    origin: NDArray[np.int64]
    keys: NDArray[np.int64]
    table: NDArray[np.int32]


class Lattice(NamedTuple):
    """Where pixels lie in a lattice.

    Attributes:
        points: how many lattice points are in use.
        places: int32 [pixels, 2, d + 1], the points around each pixel, and the bits of its float32 barycentric weights,
            which sum to 1: what belongs together lies together.
        chains: for each of the d + 1 directions the points, int32, in the order of a walk along it. The last point i of
            a chain is written as ~i; chains of a single point, which a blur leaves as they are, are left out. One more
            point follows the last.
    """

    points: int
    places: NDArray[np.int32]
    chains: tuple[NDArray[np.int32], ...]

    @property
    def dimensions(self) -> int:
        return self.places.shape[2] - 1

    @property
    def gain(self) -> float:
        """What splat, blur and slice multiply a constant by, inverted: 1 / (1 + 2^-d)."""
        return 1 / (1 + 2.0**-self.dimensions)


def build_lattice(features: Features) -> Lattice:
    """Lay out the lattice of some pixels. Its places are `scratch` memory.

    Raises:
        ValueError: features that span too many widths.
    """
    d = len(features.low)
    places = scratch(f"places of {d}", (len(features.values), 2, d + 1), np.int32)
    vertices, weights = places.reshape(-1), places.reshape(-1).view(np.float32)
    index = _empty_index(features)
    done = points = 0
    while True:
        done, points = _embed(features.values, done, points, index, vertices, weights, _corners(features))
        if done == len(places):
            break
        index = _with_more_room(index, points)
    chains = tuple(chains_along(points, index.keys, index.table, step) for step in _steps(index.radix))
    return Lattice(points, places, chains)


def _corners(features: Features) -> tuple[int, ...]:
    """As many zeros as a simplex has vertices: loops over a tuple are unrolled."""
    return (0,) * (len(features.low) + 1)


def _empty_index(features: Features) -> Index:
    d = len(features.low)
    if (span := float((features.high - features.low).max())) > MAX_SPAN:
        raise ValueError(f"the image spans {span:.3g} widths of a Gaussian, more than {MAX_SPAN}: take a larger width")
    scale = np.array([(d + 1) * np.sqrt(2 / 3) / np.sqrt((i + 1) * (i + 2)) for i in range(d)], np.float32)
    radix, origin = _packing(features.low * scale, features.high * scale)
    return Index(scale, radix, origin, *_empty_tables(FEWEST_KEYS))


def _empty_tables(room: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    keys, table = scratch(f"keys for {room}", room, np.int64), scratch(f"table for {room}", 4 * room, np.int32)
    keys.fill(FREE)
    table.fill(NONE)
    return keys, table


def _with_more_room(index: Index, points: int) -> Index:
    keys, table = _empty_tables(2 * len(index.keys))
    keys[:points] = index.keys[:points]
    enter(keys, points, table)
    return index._replace(keys=keys, table=table)


def _packing(low: NDArray[np.float32], high: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Factors and offsets that make one 64-bit key of a lattice point's first d coordinates, so that a neighbour's key
    is the point's plus a constant.

    The key is exact where the coordinates' ranges fit 62 bits, which they do for position and colour. With more
    dimensions the factors are random odd numbers, modulo 2^64: two of a million points then share a key with a
    probability of 3e-8.
    """
    d = len(low)
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


def _steps(radix: NDArray[np.int64]) -> list[np.int64]:
    """What the d + 1 directions add to a key: 1 to every coordinate but one, which loses d."""
    d = len(radix)
    ones = np.full(d + 1, radix.sum(dtype=np.int64))
    ones[:d] -= (d + 1) * radix  # arrays wrap around modulo 2^64 in silence
    return list(ones)


@njit(nogil=True, cache=True)
def _embed(features, start, points, index, vertices, weights, corners):
    """Fill vertices and weights from a pixel on, as far as there is room for new points; returns the pixels
    done and the points. Pixels go in blocks, so that all but the look-up is vector instructions over a block."""
    pixels, n = len(features), len(corners)
    keys, simplex = np.empty((n, BATCH_SAMPLES), np.int64), np.empty((n, BATCH_SAMPLES), np.float32)
    recent = np.zeros(1 << RECENT_BITS, np.int32)
    while start < pixels and points + n * BATCH_SAMPLES <= len(index.keys):
        count = min(BATCH_SAMPLES, pixels - start)
        _simplices(features, start, count, index, keys, simplex, corners)
        points = _number(
            start, count, points, keys.reshape(-1), simplex.reshape(-1), index.keys, index.table, recent,
            vertices, weights, corners,
        )  # fmt: skip
        start += count
    return start, points


@njit(nogil=True, cache=True)
def _number(start, count, points, block_keys, block_weights, keys, table, recent, vertices, weights, corners):
    """Numbers for the keys of a block. Neighbouring pixels share vertices: a small table of recent ones, which stays in
    the first cache, is asked first."""
    n = len(corners)
    for q in range(count):
        for r in range(len(corners)):
            key = peek(block_keys, r * BATCH_SAMPLES + q)
            place = np.int64(mixed(key) >> np.uint64(64 - RECENT_BITS))
            number = peek(recent, place)
            if peek(keys, np.int64(number)) != key:
                slot = slot_of(key, keys, table)
                number = peek(table, slot)
                if number < 0:
                    number = np.int32(points)
                    poke(table, slot, number)
                    poke(keys, points, key)
                    points += 1
                poke(recent, place, number)
            poke(vertices, 2 * n * (start + q) + r, number)
            poke(weights, 2 * n * (start + q) + n + r, peek(block_weights, r * BATCH_SAMPLES + q))
    return points


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _simplices(features, start, count, index, keys, weights, corners):
    """The keys of the vertices around some pixels and the barycentric weights (Adams et al., section 3.1)."""
    n, d = len(corners), len(corners) - 1
    scale, radix, origin = index.scale, index.radix, index.origin
    elevated = np.zeros((n, BATCH_SAMPLES), np.float32)
    base = np.zeros((n, BATCH_SAMPLES), np.int32)
    rank = np.zeros((n, BATCH_SAMPLES), np.int32)
    beyond = np.zeros((n, BATCH_SAMPLES), np.float32)
    total = np.zeros(BATCH_SAMPLES, np.float32)
    excess = np.zeros(BATCH_SAMPLES, np.int32)
    down = np.float32(1) / np.float32(n)
    # Elevate to the hyperplane of coordinates that sum to 0.
    for j in range(d, 0, -1):
        for q in range(count):
            f = features[start + q, j - 1] * scale[j - 1]
            elevated[j, q] = total[q] - np.float32(j) * f
            total[q] += f
    for q in range(BATCH_SAMPLES):
        elevated[0, q] = total[q]
    # The nearest point whose coordinates are multiples of d + 1.
    for j in range(n):
        for q in range(BATCH_SAMPLES):
            nearest = np.int32(np.rint(elevated[j, q] * down))
            base[j, q] = nearest * n
            beyond[j, q] = elevated[j, q] - np.float32(nearest * n)
            excess[q] += nearest
    for j in range(d):
        for k in range(j + 1, n):
            for q in range(BATCH_SAMPLES):
                less = np.int32(beyond[j, q] < beyond[k, q])
                rank[j, q] += less
                rank[k, q] += 1 - less
    # Back into the plane, if rounding left it.
    for j in range(n):
        for q in range(BATCH_SAMPLES):
            moved = rank[j, q] + excess[q]
            shift = np.int32(n * (np.int32(moved < 0) - np.int32(moved > d)))
            rank[j, q] = moved + shift
            base[j, q] += shift
            beyond[j, q] = (elevated[j, q] - np.float32(base[j, q])) * down
    # Sort by rank what goes into a weight and into a key.
    falling, steps = np.empty(n * BATCH_SAMPLES, np.float32), np.empty(n * BATCH_SAMPLES, np.int64)
    ranks, remainders = rank.reshape(-1), beyond.reshape(-1)
    for j in range(n):
        step = n * radix[j] if j < d else 0
        for q in range(BATCH_SAMPLES):
            at = np.int64(peek(ranks, j * BATCH_SAMPLES + q)) * BATCH_SAMPLES + q
            poke(falling, at, peek(remainders, j * BATCH_SAMPLES + q))
            poke(steps, at, np.int64(step))
    # Vertex r is base + r, less d + 1 in the coordinates whose rank exceeds d - r.
    for q in range(BATCH_SAMPLES):
        keys[0, q] = 0
        weights[0, q] = np.float32(1) + falling[d * BATCH_SAMPLES + q] - falling[q]
    for j in range(d):
        for q in range(BATCH_SAMPLES):
            keys[0, q] += (np.int64(base[j, q]) - origin[j]) * radix[j]
    ones = radix.sum()
    for r in range(1, n):
        for q in range(BATCH_SAMPLES):
            keys[r, q] = keys[r - 1, q] + ones - steps[(n - r) * BATCH_SAMPLES + q]
            weights[r, q] = falling[(d - r) * BATCH_SAMPLES + q] - falling[(n - r) * BATCH_SAMPLES + q]
