"""Mean-field inference of a dense CRF over rows of class scores (Krähenbühl & Koltun, NIPS 2011, algorithm 1).

    Q = softmax(scores)
    steps times:  Q = softmax(scores + sum over kernels of w K Q)

where K is a Gaussian filter over all pixels, by a permutohedral lattice: K Q is a splat, a blur and a slice.

The passes over the pixels are fused: one slices the last step's lattices, takes the softmax and splats the next's. And
as K is linear, pixels whose Q has settled are splat once for all steps to come; after two or three most have. The last
slice, which makes the result, is of all pixels again.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.crf import filtering
from pipeline.crf.filtering import Compatibility, Passage
from pipeline.crf.lattice import Features, build_lattice
from pipeline.crf.memory import scratch
from pipeline.crf.normalisation import blurred_ones, normalise
from pipeline.crf.params import CRFParams, Normalisation
from pipeline.crf.rows import Rows
from pipeline.crf.samples import Samples


class Settling(NamedTuple):
    """When a pixel is not visited any more: when at the pace of the last step it would take as many steps as `patience`
    to change a probability by `tolerance`."""

    tolerance: float
    patience: float


class Kernel(NamedTuple):
    """A Gaussian filter between samples.

    Attributes:
        points: of the lattice.
        places: int32 [samples, 2, d + 1], the points around each sample and the bits of their float32 weights in the
            slice, which are the barycentric ones with normalisation and half of the kernel's weight in the energy.
        ratios: float32 [samples], what the weights in the splat have more than those: as many pixels as the sample
            stands for, and other normalisation.
        chains: see `Lattice`.
    """

    points: int
    places: NDArray[np.int32]
    ratios: NDArray[np.float32]
    chains: tuple[NDArray[np.int32], ...]

    def passage(self, width: int) -> Passage:
        """For the values of rows; what is splat is zero to begin with."""
        vertices = self.places.reshape(-1)
        size, dimensions = self.points * width, self.places.shape[2] - 1
        old, new, settled = (scratch(f"{which} values of {dimensions}", size) for which in ("old", "new", "settled"))
        new.fill(0)
        settled.fill(0)
        return Passage(vertices, vertices.view(np.float32), self.ratios, (0,) * len(self.chains), old, new, settled)


def kernel_between(samples: Samples, features: Features, weight: float, normalisation: Normalisation) -> Kernel:
    """The Gaussian kernel between some samples, of a weight in the energy.

    Raises:
        ValueError: features that span too many widths.
    """
    lattice = build_lattice(features)
    vertices, corners = lattice.places.reshape(-1), (0,) * len(lattice.chains)
    weights, ratios = vertices.view(np.float32), samples.sides.astype(np.float32) ** 2
    ones = blurred_ones(vertices, weights, ratios, lattice.points, lattice.chains, corners)
    gain = np.float32(lattice.gain)
    before = np.float32({"symmetric": -0.5, "before": -1.0}.get(normalisation, 0.0))
    after = np.float32({"symmetric": -0.5, "after": -1.0}.get(normalisation, 0.0))
    normalise(vertices, weights, ratios, ones, np.float32((weight * gain) ** 0.5), gain, before, after, corners)
    return Kernel(lattice.points, lattice.places, ratios, lattice.chains)


def mean_field(
    rows: Rows,
    kernels: tuple[Kernel, Kernel],
    compatibility: Compatibility,
    params: CRFParams,
    settling: Settling,
) -> tuple[Passage, Passage]:
    """Run all steps but the last slice.

    Args:
        rows: the scores of the samples that the kernels are between.
        kernels: bilateral and Gaussian.
        compatibility: of the rows' lanes.
        params: of which at least 1 step.
        settling: of samples.

    Returns:
        The kernels' passages; their `old` values are those to slice.
    """
    shape = (rows.width, rows.lanes)
    first, second = (kernel.passage(rows.width) for kernel in kernels)
    blocks = np.arange(0, rows.samples, filtering.GROUP_SAMPLES, dtype=np.int32)
    certainty = np.empty(len(blocks) * filtering.GROUP_SAMPLES, np.float32)
    labels = np.full(rows.samples, -1, np.int32) if params.stop_below else None
    limits = [np.float32(limit) for limit in settling]
    filtering.begin(rows.scores, certainty, first, second, *shape)
    left, stop = params.steps, False
    while True:
        first, second = (passage._replace(old=passage.new, new=passage.old) for passage in (first, second))
        for kernel, passage in zip(kernels, (first, second), strict=True):
            for chain in kernel.chains:
                filtering.blur(passage.old, chain, *shape)
        left -= 1
        if not left or stop:
            return first, second
        for passage in (first, second):
            np.copyto(passage.new, passage.settled)
        count, changed = filtering.step(
            rows.scores, blocks, certainty, labels, first, second, *compatibility, *limits, *shape
        )
        blocks, stop = blocks[:count], not count or changed < params.stop_below * rows.samples
