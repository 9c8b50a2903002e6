"""The permutohedral lattice of a batch of images, constructed by sorting.

`crf.lattice` explains the lattice. There a hash table finds its points; here the keys of all vertices are sorted, and
each run of equal keys is a point. The splat then is a sum over the samples of each run in their order, which makes it
deterministic without atomic additions. The number of an image is part of the key, so a batch has one lattice without
connections between its images.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.crf.gpu.lists import Lists, by_length
from pipeline.crf.lattice import axis_scale, packing, steps

PIECE = 128  # samples that one thread adds to a point; the sums of these pieces are added in a second pass


class Features(NamedTuple):
    """Features of the samples of a batch, in units of the kernel's width.

    Attributes:
        values: float32 [images, samples of an image, d], finite.
        low, high: float32 [d] on the host, bounds of the values in each dimension.
    """

    values: Tensor
    low: NDArray[np.float32]
    high: NDArray[np.float32]


class Lattice(NamedTuple):
    """A lattice and the place of each sample in it.

    The point after the last one stands for missing neighbours; its value is always zero.

    Attributes:
        points: number of lattice points.
        vertices: int32 [samples, d + 1], lattice points around each sample.
        weights: float32 [samples, d + 1], barycentric weights, which sum to 1.
        splat_order: int64 [samples · (d + 1)], places in `vertices` and `weights`, sorted by point and then by sample.
        pieces: for each piece its samples, in the order of `splat_order`. A piece is a part of at most `PIECE` places
            of one point.
        point_pieces: for each point its pieces.
        neighbours: for each of the d + 1 directions int32 [points + 1, 3], the points before, here and after.
    """

    points: int
    vertices: Tensor
    weights: Tensor
    splat_order: Tensor
    pieces: Lists
    point_pieces: Lists
    neighbours: tuple[Tensor, ...]

    @property
    def slice_scale(self) -> float:
        """1 / (1 + 2^-d), the factor that makes splat, blur and slice preserve a constant."""
        return 1 / (1 + 2.0 ** (1 - self.vertices.shape[1]))


def build_lattice(features: Features) -> Lattice:
    """Construct the lattice of a batch of images."""
    images, _, d = features.values.shape
    scale = axis_scale(d)
    radix, origin, size = packing(features.low * scale, features.high * scale)
    image_radix = size if size is not None and size * images < 2**62 else _random_odd()
    keys, weights = _locate(features.values, scale, radix, origin)
    keys += (image_radix * torch.arange(images, device=keys.device))[:, None, None]
    ordered, order = torch.sort(keys.reshape(-1), stable=True)
    del keys
    first = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=first[1:])
    starts = first.nonzero().reshape(-1)
    number = first.cumsum(0) - 1
    points = len(starts)
    vertices = torch.empty(len(order), dtype=torch.int32, device=order.device)
    vertices.scatter_(0, order, number.int())
    pieces, point_pieces = _pieces(starts, number)
    del first, number
    point_keys = ordered[starts]
    del ordered
    return Lattice(
        points=points,
        vertices=vertices.reshape(-1, d + 1),
        weights=weights.reshape(-1, d + 1),
        splat_order=order,
        pieces=Lists(torch.div(order, d + 1, rounding_mode="floor").int(), None, pieces, by_length(pieces)),
        point_pieces=Lists(None, None, point_pieces, by_length(point_pieces)),
        neighbours=tuple(_neighbours(point_keys, int(step)) for step in steps(radix)),
    )


def _random_odd() -> int:
    """Return the factor of an image's number if exact keys would need more than 62 bits; see `crf.lattice.packing`."""
    return int(np.random.default_rng(1).integers(2**61, 2**62)) | 1


def _locate(
    features: Tensor, scale: NDArray[np.float32], radix: NDArray[np.int64], origin: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Return the keys and the barycentric weights of the vertices around samples (Adams et al. 2010, section 3.1).

    Returns:
        int64 and float32 [images, samples of an image, d + 1].
    """
    d = features.shape[-1]
    n = d + 1
    device = features.device
    elevated = _elevate(features * torch.from_numpy(scale).to(device))
    # Round to the nearest point whose coordinates are multiples of d + 1: a remainder-0 point if they sum to 0.
    nearest = torch.round(elevated * (1 / n))
    excess = nearest.sum(dim=-1, keepdim=True).int()
    base = nearest * n
    # If the coordinates do not sum to 0, shift those with the most extreme residuals until they do.
    moved = _descending_rank(elevated - base) + excess
    shift = n * ((moved < 0).int() - (moved > d).int())
    rank = (moved + shift).long()
    base += shift
    # Sort by rank what the weights and keys are made of.
    residual = (elevated - base) * (1 / n)
    ordered = torch.empty_like(residual).scatter_(-1, rank, residual)
    radices = torch.from_numpy(np.append(radix, 0)).to(device)
    origins = torch.from_numpy(np.append(origin, 0)).to(device)
    step = torch.empty_like(rank).scatter_(-1, rank, (n * radices).expand(rank.shape))
    # Vertex r is the remainder-0 point plus r in every coordinate, minus d + 1 in those whose rank exceeds d - r.
    keys, weights = torch.empty_like(step), torch.empty_like(ordered)
    keys[..., 0] = ((base.long() - origins) * radices).sum(dim=-1)
    weights[..., 0] = 1 + ordered[..., d] - ordered[..., 0]
    ones = int(radix.sum(dtype=np.int64))
    for r in range(1, n):
        keys[..., r] = keys[..., r - 1] + ones - step[..., n - r]
        weights[..., r] = ordered[..., d - r] - ordered[..., n - r]
    return keys, weights


def _elevate(features: Tensor) -> Tensor:
    """Map d scaled features to the hyperplane of d + 1 coordinates that sum to 0."""
    d = features.shape[-1]
    elevated = features.new_empty(*features.shape[:-1], d + 1)
    running = torch.zeros_like(features[..., 0])
    for j in range(d, 0, -1):
        f = features[..., j - 1]
        elevated[..., j] = running - j * f
        running += f
    elevated[..., 0] = running
    return elevated


def _descending_rank(values: Tensor) -> Tensor:
    """Return the rank of each value in its row, int32; of equal values, the first has the lower rank."""
    rank = torch.zeros_like(values, dtype=torch.int32)
    for j in range(values.shape[-1]):
        for k in range(j + 1, values.shape[-1]):
            less = values[..., j] < values[..., k]
            rank[..., j] += less
            rank[..., k] += ~less
    return rank


def _pieces(starts: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """Return the offsets of the pieces of points, and of each point's pieces; see `Lattice`.

    Args:
        starts: int64 [points], first place of each point.
        number: int64 [places], point of each place.
    """
    place = torch.arange(len(number), device=number.device)
    begins = (place - starts[number]) % PIECE == 0
    pieces = begins.nonzero().reshape(-1)
    point_pieces = begins.cumsum(0)[starts] - 1
    ends = point_pieces.new_full((2,), len(pieces))
    return _with_end(pieces, len(number)), torch.cat([point_pieces, ends]).int()


def _with_end(places: Tensor, end: int) -> Tensor:
    return torch.cat([places, places.new_full((1,), end)]).int()


def _neighbours(keys: Tensor, step: int) -> Tensor:
    """Return the points before, here and after along a direction; see `Lattice`.

    Args:
        keys: int64 [points], ascending.
        step: what the direction adds to a key.
    """
    points = len(keys)
    table = torch.full((points + 1, 3), points, dtype=torch.int32, device=keys.device)
    table[:points, 1] = torch.arange(points, device=keys.device)
    for column, wanted in ((0, keys - step), (2, keys + step)):
        found = torch.searchsorted(keys, wanted).clamp_(max=points - 1)
        table[:points, column] = torch.where(keys[found] == wanted, found, points)
    return table
