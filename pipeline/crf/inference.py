"""From the unary term of an image to its refined labels or probabilities."""

from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.crf import filtering
from pipeline.crf.features import bilateral_features, spatial_features
from pipeline.crf.filtering import Compatibility, LatticeState
from pipeline.crf.mean_field import Kernel, Settling, kernel_between, mean_field
from pipeline.crf.params import CRFParams, Mode, Normalisation
from pipeline.crf.pruning import COARSE_STEPS, can_prune, choose_classes, choose_sides
from pipeline.crf.rows import Rows
from pipeline.crf.samples import BLOCK_SIDE, Samples, equal_squares, mixed_squares

# Measured on the cases of `benchmarks.crf` and on photographs of streets: in exact mode the effect cannot be told from
# float32 rounding, in pruned mode it changes fewer than 1 label in 10,000.
SETTLING: dict[Mode, Settling] = {
    "exact": Settling(1e-5, 4),
    "pruned": Settling(1e-3, 4),
    "fast": Settling(1e-2, 4),
}


class Unary(Protocol):
    """The unary term of an image, in whatever form the caller has it."""

    def rows(self, samples: Samples, kept: NDArray[np.intp], rest_factor: float) -> Rows:
        """Return the log-probabilities at samples.

        Args:
            samples: samples of the image.
            kept: int [kept classes], the classes that get lanes of their own.
            rest_factor: compatibility factor of the rest lane; see `Rows`.
        """
        ...

    def best_classes(self) -> NDArray[np.int32]:
        """Return the best class of each pixel before the CRF, int32 [height, width]."""
        ...


class Marginals(NamedTuple):
    """The result of inference before the last slice.

    The arrays are `scratch` memory and valid until the thread's next inference.

    Attributes:
        samples: samples of the image.
        rows: their unary log-probabilities.
        bilateral, spatial: lattice states to slice, or None if there were no steps.
        compatibility: compatibility of the rows' lanes.
    """

    samples: Samples
    rows: Rows
    bilateral: LatticeState | None
    spatial: LatticeState | None
    compatibility: Compatibility

    def labels(self) -> NDArray[np.int32]:
        """Return the best class of each pixel, int32 [height, width]."""
        lanes = filtering.final_labels(
            self.rows.scores, self.bilateral, self.spatial, *self.compatibility,
            len(self.rows.kept), self.rows.width, self.rows.lanes,
        )  # fmt: skip
        return self.samples.paint(self.rows.kept.astype(np.int32)[lanes])

    def probabilities(self) -> NDArray[np.float32]:
        """Return float32 [classes, height, width], with 0 for pruned classes."""
        result = np.zeros((self.rows.num_classes, *self.samples.size), np.float32)
        for c, values in zip(self.rows.kept, self.lane_probabilities(), strict=False):
            result[c] = self.samples.paint(values)
        return result

    def lane_probabilities(self) -> NDArray[np.float32]:
        """Return the probabilities of the used lanes, float32 [used lanes, samples]."""
        result = np.empty((self.rows.used_lanes, self.rows.samples), np.float32)
        filtering.final_probabilities(
            result, self.rows.scores, self.bilateral, self.spatial, *self.compatibility,
            self.rows.width, self.rows.lanes,
        )  # fmt: skip
        return result


def infer(pixels: NDArray, unary: Unary, *, classes: int, params: CRFParams, mode: Mode) -> Marginals:
    """Choose classes and samples according to the mode and run mean-field inference.

    Args:
        pixels: uint8 or float32 [height, width, channels].
        unary: unary term of the image.
        classes: number of classes.
        params: parameters of the CRF.
        mode: see `Mode`.
    """
    size, kept, rest_factor = (pixels.shape[0], pixels.shape[1]), np.arange(classes), 0.0
    samples = equal_squares(*size, 1)
    if mode != "exact" and can_prune(size, params):
        blocks = equal_squares(*size, BLOCK_SIDE)
        coarse_params = params.model_copy(update={"steps": COARSE_STEPS})
        coarse = infer_samples(
            pixels, blocks, unary.rows(blocks, kept, rest_factor), coarse_params, SETTLING[mode]
        ).lane_probabilities()
        before = unary.best_classes()
        kept, rest_factor = choose_classes(coarse, np.bincount(before.reshape(-1), minlength=classes))
        if mode == "fast":
            samples = mixed_squares(*size, choose_sides(blocks, coarse, before))
    return infer_samples(pixels, samples, unary.rows(samples, kept, rest_factor), params, SETTLING[mode])


def infer_samples(pixels: NDArray, samples: Samples, rows: Rows, params: CRFParams, settling: Settling) -> Marginals:
    """Run mean-field inference on samples of an image.

    Args:
        pixels: uint8 or float32 [height, width, channels].
        samples: samples of the image.
        rows: log-probabilities of the samples.
        params: parameters of the CRF.
        settling: criterion by which samples have settled.
    """
    compatibility = _lane_compatibility(params, rows)
    if not params.steps:
        return Marginals(samples, rows, None, None, compatibility)
    features = bilateral_features(pixels, samples, params.sigma_alpha, params.sigma_beta)
    kernels = (
        kernel_between(samples, features, params.w1, params.normalisation),
        _spatial_kernel(samples, params.sigma_gamma, params.w2, params.normalisation),
    )
    return Marginals(samples, rows, *mean_field(rows, kernels, compatibility, params, settling), compatibility)


def _spatial_kernel(samples: Samples, sigma: float, weight: float, normalisation: Normalisation) -> Kernel:
    if samples.side is None:
        return kernel_between(samples, spatial_features(samples, sigma), weight, normalisation)
    return _cached_spatial_kernel(samples.size, samples.side, sigma, weight, normalisation)


@lru_cache(maxsize=4)
def _cached_spatial_kernel(
    size: tuple[int, int], side: int, sigma: float, weight: float, normalisation: Normalisation
) -> Kernel:
    """Return the spatial kernel of equal squares, which depends on the image's size alone."""
    samples = equal_squares(*size, side)
    kernel = kernel_between(samples, spatial_features(samples, sigma), weight, normalisation)
    return kernel._replace(embedding=kernel.embedding.copy())  # the next lattice overwrites the scratch memory


def _lane_compatibility(params: CRFParams, rows: Rows) -> Compatibility:
    """Return the compatibility of the rows' lanes."""
    given = params.label_compatibility(rows.num_classes)
    kept = len(rows.kept)
    if rows.used_lanes == kept and given is None:
        return Compatibility(None, None)
    lanes = np.zeros((rows.width,) * (1 if given is None else given.ndim), np.float32)
    if given is not None and given.ndim == 2:
        lanes[:kept, :kept] = -given[np.ix_(rows.kept, rows.kept)].T
        return Compatibility(None, lanes)
    lanes[:kept] = 1 if given is None else given[rows.kept]
    lanes[kept : rows.used_lanes] = rows.rest_factor
    return Compatibility(lanes, None)
