"""Mean-field inference of a dense CRF over rows of class scores (Krähenbühl & Koltun, NIPS 2011, algorithm 1).

    Q = softmax(scores)
    steps times:  Q = softmax(scores + sum over kernels of w K Q)

where K is a Gaussian filter over all pixels, by a permutohedral lattice: K Q is a splat, a blur and a slice.
The passes over the pixels are fused: one slices the last step's lattices, takes the softmax and splats the next's.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.crf import filtering
from pipeline.crf.filtering import Compatibility, Passage
from pipeline.crf.lanes import aligned
from pipeline.crf.lattice import Features, Lattice, build_lattice, look_up
from pipeline.crf.params import CRFParams, Normalisation
from pipeline.crf.rows import Rows

MAX_VALUES = 2**31 - 1  # of a lattice


class Kernel(NamedTuple):
    """A Gaussian filter between pixels.

    Attributes:
        lattice: where the pixels lie.
        ones: float32 [points + 1], what splat and blur make of ones.
        weight: of the kernel in the energy.
        normalisation: of its sums.
    """

    lattice: Lattice
    ones: NDArray[np.float32]
    weight: float
    normalisation: Normalisation

    def splat_weights(self) -> NDArray[np.float32]:
        """Half of the kernel's weight goes in with the splat, half out with the slice; normalisation likewise."""
        power = {"symmetric": 0.5, "before": 1.0}.get(self.normalisation, 0.0)
        return self._normalised(self.lattice.vertices, self.lattice.weights, power)

    def slice_weights(self, vertices: NDArray[np.int32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        power = {"symmetric": 0.5, "after": 1.0}.get(self.normalisation, 0.0)
        return self._normalised(vertices, weights, power)

    def _normalised(
        self, vertices: NDArray[np.int32], weights: NDArray[np.float32], power: float
    ) -> NDArray[np.float32]:
        gain = np.float32(self.lattice.gain)
        factor = np.float32((self.weight * gain) ** 0.5)
        return filtering.normalised(self.ones, vertices, weights, factor, gain, np.float32(power)).reshape(-1)

    def passage(self, rows: Rows) -> Passage:
        """For the values of rows' classes, zero to begin with.

        Raises:
            ValueError: offsets of rows would not fit 32 bits.
        """
        if (self.lattice.points + 1) * rows.width > MAX_VALUES:
            raise ValueError(
                f"a lattice of {self.lattice.points:,} points times {rows.width} classes is too large; give a smaller "
                "max_bytes, so that the image goes in tiles"
            )
        vertices, weights = self.lattice.vertices, self.lattice.weights
        into = self.splat_weights()
        out = into if self.normalisation in ("symmetric", "none") else self.slice_weights(vertices, weights)
        old, new = (aligned((self.lattice.points + 1) * rows.width) for _ in range(2))
        return Passage(_offsets(vertices, rows), into, out, (0,) * vertices.shape[1], old, new)

    def seen_from(self, features: Features) -> "View":
        """For other pixels."""
        vertices, weights = look_up(self.lattice, features)
        return View(vertices, self.slice_weights(vertices, weights))


class View(NamedTuple):
    """A kernel's lattice as other pixels slice it: their vertices and weights."""

    vertices: NDArray[np.int32]
    weights: NDArray[np.float32]

    def passage(self, passage: Passage, rows: Rows) -> Passage:
        """Slices the values of a passage of the kernel."""
        return passage._replace(vertices=_offsets(self.vertices, rows), into=self.weights, out=self.weights)


def _offsets(vertices: NDArray[np.int32], rows: Rows) -> NDArray[np.int32]:
    return (vertices * np.int32(rows.width)).reshape(-1)


def kernel_between(features: Features, weight: float, normalisation: Normalisation) -> Kernel:
    """The Gaussian kernel between some pixels."""
    lattice = build_lattice(features)
    ones = filtering.blurred_ones(lattice.vertices, lattice.weights, lattice.points, lattice.chains)
    return Kernel(lattice, ones, weight, normalisation)


def mean_field(
    rows: Rows,
    kernels: tuple[Kernel, Kernel],
    compatibility: Compatibility,
    params: CRFParams,
) -> tuple[Passage, Passage]:
    """Run all steps but the last slice.

    Args:
        rows: the scores of the pixels that the kernels are between.
        compatibility: of the rows' lanes.
        params: of which at least 1 step.

    Returns:
        The kernels' passages; their `old` values are those to slice.
    """
    first, second = (kernel.passage(rows) for kernel in kernels)
    shape = (rows.width, rows.lanes)
    filtering.first_step(rows.scores, first, second, *shape)
    labels = np.full(rows.pixels, -1, np.int32) if params.stop_below else None
    left, settled = params.steps, False
    while True:
        first, second = (passage._replace(old=passage.new, new=passage.old) for passage in (first, second))
        for kernel, passage in zip(kernels, (first, second), strict=True):
            for chain in kernel.lattice.chains:
                filtering.blur(passage.old, chain, *shape)
        left -= 1
        if not left or settled:
            return first, second
        first.new.fill(0)
        second.new.fill(0)
        changed = filtering.step(rows.scores, first, second, *compatibility, labels, rows.classes, *shape)
        settled = changed < params.stop_below * rows.pixels
