"""Mean-field inference in a dense CRF over rows of class scores (Krähenbühl & Koltun, NIPS 2011, algorithm 1).

    Q = softmax(scores)
    repeat `steps` times:  Q = softmax(scores + sum over kernels of w K Q)

K is a Gaussian filter over all samples, which a permutohedral lattice computes as splat, blur and slice of Q.

Each step is fused into one pass over the samples: slice the lattices of the previous step, take the softmax, splat into
the lattices of this step. As K is linear, samples whose Q has settled are splat once for all later steps; after two or
three steps that is most of them. The last slice, which makes the result, covers all samples again.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.crf import filtering
from pipeline.crf.filtering import Compatibility, LatticeState
from pipeline.crf.lattice import Features, build_lattice
from pipeline.crf.memory import scratch
from pipeline.crf.normalisation import blurred_ones, normalise
from pipeline.crf.params import CRFParams, Normalisation
from pipeline.crf.rows import Rows
from pipeline.crf.samples import Samples


class Settling(NamedTuple):
    """Criterion by which a sample has settled and is not visited any more.

    A sample has settled if, at the pace of its last step, it would take more than `patience` steps to change a
    probability by `tolerance`.
    """

    tolerance: float
    patience: float


class Kernel(NamedTuple):
    """A normalised and weighted Gaussian kernel between samples.

    Attributes:
        points: number of lattice points.
        embedding: int32 [samples, 2, d + 1], vertices of each sample and the bits of their float32 slice weights: the
            barycentric weights times the normalisation and the square root of the kernel's weight in the energy.
        splat_ratios: float32 [samples], weights in the splat divided by those in the slice: the number of pixels that
            the sample represents, times the quotient of the two normalisations.
        chains: see `Lattice`.
    """

    points: int
    embedding: NDArray[np.int32]
    splat_ratios: NDArray[np.float32]
    chains: tuple[NDArray[np.int32], ...]

    def state(self, width: int) -> LatticeState:
        """Return the lattice for rows of a width, with splat and settled values of zero."""
        vertices = self.embedding.reshape(-1)
        size, d = self.points * width, self.embedding.shape[2] - 1
        slice_values, splat_values, settled_values = (
            scratch(f"{name} values, {d} dimensions", size) for name in ("slice", "splat", "settled")
        )
        splat_values.fill(0)
        settled_values.fill(0)
        return LatticeState(
            vertices=vertices,
            weights=vertices.view(np.float32),
            splat_ratios=self.splat_ratios,
            corners=(0,) * len(self.chains),
            slice_values=slice_values,
            splat_values=splat_values,
            settled_values=settled_values,
        )


def kernel_between(samples: Samples, features: Features, weight: float, normalisation: Normalisation) -> Kernel:
    """Return the Gaussian kernel between samples.

    Args:
        samples: samples that the features belong to.
        features: features that the kernel compares.
        weight: weight of the kernel in the energy.
        normalisation: normalisation by the kernel's row sums.

    Raises:
        ValueError: The features span too many kernel widths.
    """
    lattice = build_lattice(features)
    vertices, corners = lattice.embedding.reshape(-1), (0,) * len(lattice.chains)
    weights, splat_ratios = vertices.view(np.float32), samples.sides.astype(np.float32) ** 2
    ones = blurred_ones(vertices, weights, splat_ratios, lattice.points, lattice.chains, corners)
    scale = np.float32(lattice.slice_scale)
    before = np.float32({"symmetric": -0.5, "before": -1.0}.get(normalisation, 0.0))
    after = np.float32({"symmetric": -0.5, "after": -1.0}.get(normalisation, 0.0))
    normalise(vertices, weights, splat_ratios, ones, np.float32((weight * scale) ** 0.5), scale, before, after, corners)
    return Kernel(lattice.points, lattice.embedding, splat_ratios, lattice.chains)


def mean_field(
    rows: Rows,
    kernels: tuple[Kernel, Kernel],
    compatibility: Compatibility,
    params: CRFParams,
    settling: Settling,
) -> tuple[LatticeState, LatticeState]:
    """Run all mean-field steps up to the last slice.

    Args:
        rows: scores of the samples.
        kernels: bilateral and spatial kernel between the samples.
        compatibility: compatibility of the rows' lanes.
        params: parameters of the CRF, with at least one step.
        settling: criterion by which samples have settled.

    Returns:
        The lattice states of both kernels, whose `slice_values` are blurred and ready for the last slice.
    """
    layout = (rows.width, rows.lanes)
    bilateral, spatial = (kernel.state(rows.width) for kernel in kernels)
    groups = np.arange(0, rows.samples, filtering.GROUP_SAMPLES, dtype=np.int32)
    certainty = np.empty(len(groups) * filtering.GROUP_SAMPLES, np.float32)
    labels = np.full(rows.samples, -1, np.int32) if params.stop_below else None
    limits = [np.float32(limit) for limit in settling]
    filtering.initialise(rows.scores, certainty, bilateral, spatial, *layout)
    steps_left, stop = params.steps, False
    while True:
        bilateral, spatial = (
            state._replace(slice_values=state.splat_values, splat_values=state.slice_values)
            for state in (bilateral, spatial)
        )
        for kernel, state in zip(kernels, (bilateral, spatial), strict=True):
            for chain in kernel.chains:
                filtering.blur(state.slice_values, chain, *layout)
        steps_left -= 1
        if not steps_left or stop:
            return bilateral, spatial
        for state in (bilateral, spatial):
            np.copyto(state.splat_values, state.settled_values)
        remaining, changed = filtering.mean_field_step(
            rows.scores, groups, certainty, labels, bilateral, spatial, *compatibility, *limits, *layout
        )
        groups, stop = groups[:remaining], not remaining or changed < params.stop_below * rows.samples
