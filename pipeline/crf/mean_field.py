"""Mean-field inference of a dense CRF over rows of class scores (Krähenbühl & Koltun, NIPS 2011, algorithm 1).

    Q = softmax(scores)
    steps times:  Q = softmax(scores + sum over kernels of w K Q)

where K is a Gaussian filter over all pixels, by a permutohedral lattice: K Q is a splat, a blur and a slice.
The passes over the pixels are fused: one slices the last step's lattices, takes the softmax and splats the next's.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.crf import filtering
from pipeline.crf.lanes import aligned
from pipeline.crf.lattice import Lattice, build_lattice
from pipeline.crf.params import CRFParams, Normalisation


class Kernel(NamedTuple):
    """A Gaussian filter with its weight and normalisation folded into the lattice's barycentric weights.

    Attributes:
        lattice: where the pixels lie.
        into, out: float32 [pixels, d + 1], weights of the splat and of the slice; the same array if symmetric.
        corners: as many zeros as a pixel has vertices.
    """

    lattice: Lattice
    into: NDArray[np.float32]
    out: NDArray[np.float32]
    corners: tuple[int, ...]


def bilateral_kernel(image: NDArray[np.float32], params: CRFParams) -> Kernel:
    """The kernel over position and colour.

    Args:
        image: float32 [height, width, channels].
    """
    height, width, channels = image.shape
    features = np.empty((height, width, 2 + channels), np.float32)
    _positions(features, params.sigma_alpha)
    np.divide(image, np.float32(params.sigma_beta), out=features[..., 2:])
    lattice = build_lattice(features.reshape(height * width, -1))
    return _weighted(lattice, _sums(lattice), params.w1, params.normalisation)


def gaussian_kernel(height: int, width: int, params: CRFParams) -> Kernel:
    """The kernel over position alone. Its lattice depends on the image's size only and is kept for the next one."""
    lattice, sums = _position_lattice(height, width, params.sigma_gamma)
    return _weighted(lattice, sums, params.w2, params.normalisation)


@lru_cache(maxsize=8)
def _position_lattice(height: int, width: int, sigma: float) -> tuple[Lattice, NDArray[np.float32]]:
    features = np.empty((height, width, 2), np.float32)
    _positions(features, sigma)
    lattice = build_lattice(features.reshape(height * width, 2))
    return lattice, _sums(lattice)


def _positions(features: NDArray[np.float32], sigma: float) -> None:
    """Write x / sigma and y / sigma as the first two features."""
    height, width = features.shape[:2]
    features[..., 0] = np.arange(width, dtype=np.float32) / np.float32(sigma)
    features[..., 1] = (np.arange(height, dtype=np.float32) / np.float32(sigma))[:, None]


def _sums(lattice: Lattice) -> NDArray[np.float32]:
    """What the filter makes of ones: each pixel's sum over all others."""
    lanes = (0,) * 8
    corners = (0,) * (lattice.dimensions + 1)
    rows = np.ones(8 * len(lattice.vertices), np.float32)
    values = np.zeros(8 * lattice.points, np.float32)
    filtering.splat(rows, lattice.vertices, lattice.weights, values, corners, lanes)
    for chain in lattice.chains:
        filtering.blur(values, chain, lanes)
    rows[:] = 0
    filtering.slice_into(rows, lattice.vertices, lattice.weights, values, corners, lanes)
    return np.maximum(rows[::8] * np.float32(lattice.gain), np.float32(1e-20))


def _weighted(lattice: Lattice, sums: NDArray[np.float32], weight: float, normalisation: Normalisation) -> Kernel:
    corners = (0,) * (lattice.dimensions + 1)
    factor = np.float32((weight * lattice.gain) ** 0.5)  # half on the way in, half on the way out
    inverse = (np.float32(1) / sums)[:, None]
    if normalisation == "symmetric":
        both = lattice.weights * (factor * np.sqrt(inverse))
        return Kernel(lattice, both, both, corners)
    plain = lattice.weights * factor
    if normalisation == "none":
        return Kernel(lattice, plain, plain, corners)
    normalised = plain * inverse
    before = normalisation == "before"
    return Kernel(lattice, normalised if before else plain, plain if before else normalised, corners)


def mean_field(
    scores: NDArray[np.float32],
    kernels: tuple[Kernel, Kernel],
    *,
    steps: int,
    lanes: int,
) -> NDArray[np.float32]:
    """Run the steps.

    Args:
        scores: float32, flat, a row of `lanes` for each pixel: log-probabilities up to a constant of each pixel; unused
            lanes hold a large negative number.
        kernels: of the CRF.
        steps: at least 1.
        lanes: a multiple of 8.

    Returns:
        float32 like `scores`: logits whose softmax is Q after the last step.
    """
    width = (0,) * lanes
    first, second = kernels
    old = [aligned(k.lattice.points * lanes) for k in kernels]
    new = [aligned(len(values)) for values in old]
    filtering.softmax_splat(
        scores, first.lattice.vertices, first.into, old[0], first.corners,
        second.lattice.vertices, second.into, old[1], second.corners, width,
    )  # fmt: skip
    for _ in range(steps - 1):
        _blur(kernels, old, width)
        for values in new:
            values.fill(0)
        filtering.step(
            scores, first.lattice.vertices, first.out, first.into, old[0], new[0], first.corners,
            second.lattice.vertices, second.out, second.into, old[1], new[1], second.corners, width,
        )  # fmt: skip
        old, new = new, old
    _blur(kernels, old, width)
    result = aligned(len(scores))
    filtering.last_step(
        scores, first.lattice.vertices, first.out, old[0], first.corners,
        second.lattice.vertices, second.out, old[1], second.corners, result, width,
    )  # fmt: skip
    return result


def _blur(kernels: tuple[Kernel, Kernel], values: list[NDArray[np.float32]], width: tuple[int, ...]) -> None:
    for kernel, of in zip(kernels, values, strict=True):
        for chain in kernel.lattice.chains:
            filtering.blur(of, chain, width)
