"""The permutohedral lattice: Gaussian filtering in several dimensions, in time linear in the number of samples.

Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010. A sample with
features f (position and colour, each divided by the kernel's width) lies in a simplex of the lattice.

    Splat: each sample adds its value to the d + 1 vertices of its simplex, by its barycentric weights.
    Blur:  the lattice values are filtered by [1/2, 1, 1/2] along each of the lattice's d + 1 directions.
    Slice: each sample reads the vertices of its simplex with the same weights.

This module only constructs the lattice: the vertices and weights of each sample and the order of the blur. `filtering`
splats, blurs and slices.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.crf.chains import chains_along
from pipeline.crf.compiling import njit
from pipeline.crf.hashing import find_slot, hash_key, insert_all
from pipeline.crf.lanes import peek, poke
from pipeline.crf.memory import scratch

NO_KEY = np.int64(-(2**63))
FREE_SLOT = np.int32(-1)
BATCH_SAMPLES = 128  # samples located together
INITIAL_CAPACITY = 1 << 15  # points
RECENT_BITS = 9  # log2 of the size of the cache of recent points
MAX_SPAN = 2**17  # kernel widths; float32 then resolves 1/64 of a lattice coordinate


class Features(NamedTuple):
    """Features of samples, in units of the kernel's width.

    Attributes:
        values: float32 [samples, d], finite.
        low, high: float32 [d], bounds of the values in each dimension.
    """

    values: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]


class PointIndex(NamedTuple):
    """Finds lattice points by their coordinates.

    Attributes:
        scale: float32 [d], factors from features to lattice coordinates.
        radix, origin: int64 [d], factors and offsets from coordinates to a key; see `Packing`.
        keys: int64 [capacity], keys of the points by their index.
        table: int32 [4 · capacity], hash table of point indices; see `hashing`.
    """

    scale: NDArray[np.float32]
    radix: NDArray[np.int64]
    origin: NDArray[np.int64]
    keys: NDArray[np.int64]
    table: NDArray[np.int32]


class Lattice(NamedTuple):
    """A lattice and the place of each sample in it.

    Attributes:
        points: number of lattice points in use.
        embedding: int32 [samples, 2, d + 1], the vertices around each sample as point indices, and the bits of their
            float32 barycentric weights, which sum to 1. Both lie together in memory because they are read together.
        chains: for each of the d + 1 directions, int32, the points in the order in which the blur visits them: the
            direction's chains one after the other (see `chains`), with the last point i of a chain stored as ~i. Points
            without neighbours are left out: the blur does not change them. One extra entry at the end allows the blur
            to read ahead.
    """

    points: int
    embedding: NDArray[np.int32]
    chains: tuple[NDArray[np.int32], ...]

    @property
    def dimensions(self) -> int:
        """The number d of feature dimensions."""
        return self.embedding.shape[2] - 1

    @property
    def slice_scale(self) -> float:
        """1 / (1 + 2^-d), the factor that makes splat, blur and slice preserve a constant."""
        return 1 / (1 + 2.0**-self.dimensions)


def build_lattice(features: Features) -> Lattice:
    """Construct the lattice of some samples; its embedding is `scratch` memory.

    Raises:
        ValueError: The features span too many kernel widths.
    """
    d = len(features.low)
    embedding = scratch(f"embedding, {d} dimensions", (len(features.values), 2, d + 1), np.int32)
    vertices, weights = embedding.reshape(-1), embedding.reshape(-1).view(np.float32)
    index = _empty_index(features)
    done = points = 0
    while True:
        done, points = _embed(features.values, done, points, index, vertices, weights, (0,) * (d + 1))
        if done == len(embedding):
            break
        index = _with_double_capacity(index, points)
    chains = tuple(chains_along(points, index.keys, index.table, step) for step in steps(index.radix))
    return Lattice(points, embedding, chains)


def _empty_index(features: Features) -> PointIndex:
    check_span(features.low, features.high)
    scale = axis_scale(len(features.low))
    radix, origin, _ = packing(features.low * scale, features.high * scale)
    return PointIndex(scale, radix, origin, *_empty_tables(INITIAL_CAPACITY))


def check_span(low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
    """Refuse features that float32 cannot resolve: what counts is their distance from 0, even if all are the same.

    Raises:
        ValueError: The features span too many kernel widths.
    """
    if (span := float(np.abs([low, high]).max())) > MAX_SPAN:
        raise ValueError(
            f"the image spans {span:.3g} widths of a CRF kernel, more than {MAX_SPAN}: take a larger width"
        )


def axis_scale(d: int) -> NDArray[np.float32]:
    """Return the factors from d features to lattice coordinates, float32 [d]."""
    return np.array([(d + 1) * np.sqrt(2 / 3) / np.sqrt((i + 1) * (i + 2)) for i in range(d)], np.float32)


def _empty_tables(capacity: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    keys = scratch(f"keys, capacity {capacity}", capacity, np.int64)
    table = scratch(f"table, capacity {capacity}", 4 * capacity, np.int32)
    keys.fill(NO_KEY)
    table.fill(FREE_SLOT)
    return keys, table


def _with_double_capacity(index: PointIndex, points: int) -> PointIndex:
    keys, table = _empty_tables(2 * len(index.keys))
    keys[:points] = index.keys[:points]
    insert_all(keys, points, table)
    return index._replace(keys=keys, table=table)


class Packing(NamedTuple):
    """How the first d coordinates of a lattice point become one 64-bit key: sum of (coordinate - origin) · radix.

    Attributes:
        radix, origin: int64 [d].
        size: number of possible keys, of which one is unique to each point; None if the keys are hashed.
    """

    radix: NDArray[np.int64]
    origin: NDArray[np.int64]
    size: int | None


def packing(low: NDArray[np.float32], high: NDArray[np.float32]) -> Packing:
    """Return the packing of the points around samples whose scaled features lie between two bounds.

    The key is linear in the coordinates, so a neighbour's key is the point's key plus a constant. It is unique if the
    ranges of the coordinates fit 62 bits, which they do for position and colour. With more dimensions the
    factors are random odd numbers modulo 2^64; two of a million points then share a key with a probability of 3e-8.
    """
    d = len(low)
    # Coordinate j of an elevated sample is sum_(i >= j) f_i - j f_(j-1), where f are the scaled features.
    # A vertex of its simplex is less than d + 1 away in each coordinate, and a neighbour of the vertex d more.
    tail_low, tail_high = np.cumsum(low[::-1])[::-1], np.cumsum(high[::-1])[::-1]
    margin = 3 * (d + 1)
    bottom = [int(np.floor(tail_low[j] - (j * high[j - 1] if j else 0))) - margin for j in range(d)]
    top = [int(np.ceil(tail_high[j] - (j * low[j - 1] if j else 0))) + margin for j in range(d)]
    radix, size = [], 1
    for j in range(d):
        radix.append(size)
        size *= top[j] - bottom[j] + 1
    exact = size < 2**62
    if not exact:
        random = np.random.default_rng(0)
        radix = [int(random.integers(2**61, 2**62)) | 1 for _ in range(d)]
    return Packing(np.array(radix, np.int64), np.array(bottom, np.int64), size if exact else None)


def steps(radix: NDArray[np.int64]) -> list[np.int64]:
    """Return what each of the d + 1 directions adds to a key.

    A direction adds 1 to every coordinate except one, from which it subtracts d.
    """
    d = len(radix)
    ones = np.full(d + 1, radix.sum(dtype=np.int64))
    ones[:d] -= (d + 1) * radix  # arrays wrap around modulo 2^64 without a warning
    return list(ones)


@njit(nogil=True, cache=True)
def _embed(features, start, points, index, vertices, weights, corners):
    """Find the vertices and weights of samples from `start` on, until the index might run out of capacity.

    Samples are processed in batches, over which everything but the look-up is vectorised.

    Returns:
        The number of samples done and the number of points.
    """
    samples, n = len(features), len(corners)
    keys, barycentric = np.empty((n, BATCH_SAMPLES), np.int64), np.empty((n, BATCH_SAMPLES), np.float32)
    recent = np.zeros(1 << RECENT_BITS, np.int32)
    while start < samples and points + n * BATCH_SAMPLES <= len(index.keys):
        count = min(BATCH_SAMPLES, samples - start)
        _locate(features, start, count, index, keys, barycentric, corners)
        points = _look_up(
            start, count, points, keys.reshape(-1), barycentric.reshape(-1), index.keys, index.table, recent,
            vertices, weights, corners,
        )  # fmt: skip
        start += count
    return start, points


@njit(nogil=True, cache=True)
def _look_up(start, count, points, batch_keys, batch_weights, keys, table, recent, vertices, weights, corners):
    """Write the point indices and weights of a batch, adding points for new keys; returns the number of points.

    Neighbouring samples share vertices, so a small cache of recent points, which stays in the level-1 cache, is checked
    before the hash table.
    """
    n = len(corners)
    for q in range(count):
        for r in range(len(corners)):
            key = peek(batch_keys, r * BATCH_SAMPLES + q)
            place = np.int64(hash_key(key) >> np.uint64(64 - RECENT_BITS))
            point = peek(recent, place)
            if peek(keys, np.int64(point)) != key:
                slot = find_slot(key, keys, table)
                point = peek(table, slot)
                if point < 0:
                    point = np.int32(points)
                    poke(table, slot, point)
                    poke(keys, points, key)
                    points += 1
                poke(recent, place, point)
            poke(vertices, 2 * n * (start + q) + r, point)
            poke(weights, 2 * n * (start + q) + n + r, peek(batch_weights, r * BATCH_SAMPLES + q))
    return points


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _locate(features, start, count, index, keys, weights, corners):
    """Compute the keys of the vertices around a batch of samples and their barycentric weights (section 3.1)."""
    n, d = len(corners), len(corners) - 1
    scale, radix, origin = index.scale, index.radix, index.origin
    elevated = np.zeros((n, BATCH_SAMPLES), np.float32)
    base = np.zeros((n, BATCH_SAMPLES), np.int32)
    rank = np.zeros((n, BATCH_SAMPLES), np.int32)
    residual = np.zeros((n, BATCH_SAMPLES), np.float32)
    running = np.zeros(BATCH_SAMPLES, np.float32)
    excess = np.zeros(BATCH_SAMPLES, np.int32)
    inverse_n = np.float32(1) / np.float32(n)
    # Elevate the features to the hyperplane of d + 1 coordinates that sum to 0.
    for j in range(d, 0, -1):
        for q in range(count):
            f = features[start + q, j - 1] * scale[j - 1]
            elevated[j, q] = running[q] - np.float32(j) * f
            running[q] += f
    for q in range(BATCH_SAMPLES):
        elevated[0, q] = running[q]
    # Round to the nearest point whose coordinates are multiples of d + 1: a remainder-0 point if they sum to 0.
    for j in range(n):
        for q in range(BATCH_SAMPLES):
            nearest = np.int32(np.rint(elevated[j, q] * inverse_n))
            base[j, q] = nearest * n
            residual[j, q] = elevated[j, q] - np.float32(nearest * n)
            excess[q] += nearest
    # Rank the coordinates by descending residual.
    for j in range(d):
        for k in range(j + 1, n):
            for q in range(BATCH_SAMPLES):
                less = np.int32(residual[j, q] < residual[k, q])
                rank[j, q] += less
                rank[k, q] += 1 - less
    # If the coordinates do not sum to 0, shift those with the most extreme residuals until they do.
    for j in range(n):
        for q in range(BATCH_SAMPLES):
            moved = rank[j, q] + excess[q]
            shift = np.int32(n * (np.int32(moved < 0) - np.int32(moved > d)))
            rank[j, q] = moved + shift
            base[j, q] += shift
            residual[j, q] = (elevated[j, q] - np.float32(base[j, q])) * inverse_n
    # Sort by rank what the weights and keys are made of.
    sorted_residual, sorted_step = np.empty(n * BATCH_SAMPLES, np.float32), np.empty(n * BATCH_SAMPLES, np.int64)
    flat_rank, flat_residual = rank.reshape(-1), residual.reshape(-1)
    for j in range(n):
        step = n * radix[j] if j < d else 0
        for q in range(BATCH_SAMPLES):
            at = np.int64(peek(flat_rank, j * BATCH_SAMPLES + q)) * BATCH_SAMPLES + q
            poke(sorted_residual, at, peek(flat_residual, j * BATCH_SAMPLES + q))
            poke(sorted_step, at, np.int64(step))
    # Vertex r is the remainder-0 point plus r in every coordinate, minus d + 1 in those whose rank exceeds d - r.
    for q in range(BATCH_SAMPLES):
        keys[0, q] = 0
        weights[0, q] = np.float32(1) + sorted_residual[d * BATCH_SAMPLES + q] - sorted_residual[q]
    for j in range(d):
        for q in range(BATCH_SAMPLES):
            keys[0, q] += (np.int64(base[j, q]) - origin[j]) * radix[j]
    ones = radix.sum()
    for r in range(1, n):
        for q in range(BATCH_SAMPLES):
            keys[r, q] = keys[r - 1, q] + ones - sorted_step[(n - r) * BATCH_SAMPLES + q]
            weights[r, q] = sorted_residual[(d - r) * BATCH_SAMPLES + q] - sorted_residual[(n - r) * BATCH_SAMPLES + q]
