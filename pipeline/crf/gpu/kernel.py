"""A Gaussian kernel between the samples of a batch of images: splat, blur and slice, all of them sums of rows."""

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.crf.gpu.lattice import Features, Lattice, build_lattice
from pipeline.crf.gpu.lists import Lists
from pipeline.crf.gpu.sums import list_sums, row_sums
from pipeline.crf.params import Normalisation

LEAST_ROW_SUM = 1e-20


class Kernel(NamedTuple):
    """A normalised and weighted Gaussian kernel between samples.

    Attributes:
        vertices: int32 [samples, d + 1], see `Lattice`.
        slice_weights: float32 [samples, d + 1]: the barycentric weights times the normalisation and the square root of
            the kernel's weight in the energy.
        pieces: see `Lattice`; with weights like `slice_weights`, times the pixels that a sample stands for.
        point_pieces, neighbours: see `Lattice`.
        blur_weights: float32 [points + 1, 3], weights of a point's neighbours and its own.
    """

    vertices: Tensor
    slice_weights: Tensor
    pieces: Lists
    point_pieces: Lists
    neighbours: tuple[Tensor, ...]
    blur_weights: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """Filter values, float32 [images, samples, lanes]."""
        blurred = list_sums(list_sums(values, self.pieces), self.point_pieces)
        for table in self.neighbours:
            blurred = row_sums(blurred, table, self.blur_weights)
        return row_sums(blurred, self.vertices, self.slice_weights)


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
    ones = torch.ones(1, len(lattice.vertices), 1, device=lattice.weights.device)
    total = (plain(ones)[0] * scale).clamp_(min=LEAST_ROW_SUM)
    before = {"symmetric": -0.5, "before": -1.0}.get(normalisation, 0.0)
    after = {"symmetric": -0.5, "after": -1.0}.get(normalisation, 0.0)
    factor = (weight * scale) ** 0.5
    return _kernel(
        lattice,
        lattice.weights * (factor * total**after),
        lattice.weights * (factor * pixels * total**before),
    )


def _kernel(lattice: Lattice, slice_weights: Tensor, splat_weights: Tensor) -> Kernel:
    """Return a kernel with some weights, both float32 [samples, d + 1]."""
    return Kernel(
        vertices=lattice.vertices,
        slice_weights=slice_weights,
        pieces=lattice.pieces._replace(weights=splat_weights.reshape(-1)[lattice.splat_order]),
        point_pieces=lattice.point_pieces,
        neighbours=lattice.neighbours,
        blur_weights=slice_weights.new_tensor([0.5, 1, 0.5]).repeat(lattice.points + 1, 1),
    )
