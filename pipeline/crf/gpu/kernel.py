"""A Gaussian kernel between the samples of a batch of images: splat, blur and slice.

All three are weighted sums over short lists of rows, for which PyTorch has one fused operation, `embedding_bag`: it
reads the rows where they lie and adds the list of a sum in its order, in one thread for each class. So the result is
deterministic, does not depend on the other images of the batch, and no list of rows is ever copied.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.crf.gpu.lattice import Features, Lattice, build_lattice
from pipeline.crf.params import Normalisation

LEAST_ROW_SUM = 1e-20


class Kernel(NamedTuple):
    """A normalised and weighted Gaussian kernel between samples.

    Attributes:
        vertices: int32 [samples, d + 1], see `Lattice`.
        slice_weights: float32 [samples, d + 1]: the barycentric weights times the normalisation and the square root of
            the kernel's weight in the energy.
        splat_samples: int32 [samples · (d + 1)], samples in the order of the splat.
        splat_weights: float32 [samples · (d + 1)], like `slice_weights`, times the pixels that a sample stands for.
        pieces, point_pieces, neighbours: see `Lattice`.
        blur_weights: float32 [points + 1, 3], weights of a point's neighbours and its own.
    """

    vertices: Tensor
    slice_weights: Tensor
    splat_samples: Tensor
    splat_weights: Tensor
    pieces: Tensor
    point_pieces: Tensor
    neighbours: tuple[Tensor, ...]
    blur_weights: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """Filter rows of values, float32 [samples, lanes]."""
        parts = _sums(values, self.splat_samples, self.splat_weights, self.pieces)
        every_part = torch.arange(len(parts), dtype=torch.int32, device=parts.device)
        blurred = _sums(parts, every_part, None, self.point_pieces)
        for table in self.neighbours:
            blurred = _row_sums(blurred, table, self.blur_weights)
        return _row_sums(blurred, self.vertices, self.slice_weights)


def kernel_between(features: Features, *, pixels: int, weight: float, normalisation: Normalisation) -> Kernel:
    """Return the Gaussian kernel between samples.

    Args:
        features: features that the kernel compares.
        pixels: number of pixels that a sample stands for.
        weight: weight of the kernel in the energy.
        normalisation: normalisation by the kernel's row sums.
    """
    lattice = build_lattice(features)
    scale = lattice.slice_scale
    plain = _kernel(lattice, lattice.weights, lattice.weights * pixels)
    ones = torch.ones(len(lattice.vertices), 1, device=lattice.weights.device)
    row_sums = (plain(ones) * scale).clamp_(min=LEAST_ROW_SUM)
    before = {"symmetric": -0.5, "before": -1.0}.get(normalisation, 0.0)
    after = {"symmetric": -0.5, "after": -1.0}.get(normalisation, 0.0)
    factor = (weight * scale) ** 0.5
    return _kernel(
        lattice,
        lattice.weights * (factor * row_sums**after),
        lattice.weights * (factor * pixels * row_sums**before),
    )


def _kernel(lattice: Lattice, slice_weights: Tensor, splat_weights: Tensor) -> Kernel:
    """Return a kernel with some weights, both float32 [samples, d + 1]."""
    return Kernel(
        vertices=lattice.vertices,
        slice_weights=slice_weights,
        splat_samples=torch.div(lattice.splat_order, slice_weights.shape[1], rounding_mode="floor").int(),
        splat_weights=splat_weights.reshape(-1)[lattice.splat_order],
        pieces=lattice.pieces,
        point_pieces=lattice.point_pieces,
        neighbours=lattice.neighbours,
        blur_weights=slice_weights.new_tensor([0.5, 1, 0.5]).repeat(lattice.points + 1, 1),
    )


def _sums(values: Tensor, rows: Tensor, weights: Tensor | None, offsets: Tensor) -> Tensor:
    """Return the weighted sums over lists of rows.

    Args:
        values: float32 [rows, lanes].
        rows: int32 [entries], rows in the lists, one list after the other.
        weights: float32 [entries]; None for 1.
        offsets: int32 [lists + 1], first entry of each list, and the end.

    Returns:
        float32 [lists, lanes]; an empty list has the sum zero.
    """
    return F.embedding_bag(rows, values, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _row_sums(values: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sums over lists of one length, int32 and float32 [lists, length]."""
    return F.embedding_bag(rows, values, mode="sum", per_sample_weights=weights)
