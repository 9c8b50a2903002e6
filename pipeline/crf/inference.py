"""From an image's rows of scores to its refined labels or probabilities."""

from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.crf import filtering
from pipeline.crf.features import bilateral_features, position_features
from pipeline.crf.filtering import Compatibility, Passage
from pipeline.crf.mean_field import Kernel, Settling, kernel_between, mean_field
from pipeline.crf.params import CRFParams, Mode, Normalisation
from pipeline.crf.pruning import STEPS, can_prune, choose, sides_of
from pipeline.crf.rows import Rows
from pipeline.crf.samples import BLOCK_SIDE, Samples, equal_squares, squares

# Measured on the cases of `benchmarks.crf` and on photographs of streets: in exact mode nothing that can be told from
# float32's rounding, in pruned mode under 1 label of 10,000.
SETTLING: dict[Mode, Settling] = {
    "exact": Settling(1e-5, 4),
    "pruned": Settling(1e-3, 4),
    "fast": Settling(1e-2, 4),
}


class Unary(Protocol):
    """The unary term of an image, in whatever form the caller has it."""

    def rows(self, samples: Samples, kept: NDArray[np.intp], rest_factor: float) -> Rows:
        """Return the scores of some classes at some samples.

        Args:
            samples: the samples of the image.
            kept: int [kept], the classes that have lanes of their own.
            rest_factor: see `Rows.rest`.
        """
        ...

    def best_classes(self) -> NDArray[np.int32]:
        """Return the best class of each pixel before the CRF, int32 [height, width]."""
        ...


class Refined(NamedTuple):
    """An image's scores and the messages that are still to be sliced; without steps there are none.

    They lie in `scratch` memory and hold until the next mean field.
    """

    samples: Samples
    rows: Rows
    first: Passage | None
    second: Passage | None
    compatibility: Compatibility

    def labels(self) -> NDArray[np.int32]:
        """The best class of each pixel, int32 [height, width]."""
        lanes = filtering.labels_of(
            self.rows.scores, self.first, self.second, *self.compatibility,
            self.rows.classes, self.rows.width, self.rows.lanes,
        )  # fmt: skip
        return self.samples.paint(self.rows.order.astype(np.int32)[lanes])

    def probabilities(self) -> NDArray[np.float32]:
        """float32 [classes, height, width]; 0 for classes that were left out."""
        result = np.zeros((self.rows.of, *self.samples.size), np.float32)
        for c, values in zip(self.rows.order, self.lanes(), strict=False):
            result[c] = self.samples.paint(values)
        return result

    def lanes(self) -> NDArray[np.float32]:
        """Probabilities of the lanes that are used, [lanes, samples]."""
        lanes = np.empty((self.rows.used, self.rows.samples), np.float32)
        filtering.probabilities_of(
            lanes, self.rows.scores, self.first, self.second, *self.compatibility, self.rows.width, self.rows.lanes
        )
        return lanes


def infer(
    pixels: NDArray,
    unary: Unary,
    *,
    classes: int,
    params: CRFParams,
    mode: Mode,
) -> Refined:
    """Choose the classes and the pixels, as the mode has it, and run the mean field.

    Args:
        pixels: [height, width, channels], uint8 or float32.
        unary: the unary term of the image.
        classes: of the data set.
        params, mode: of the CRF.
    """
    size, order, rest = (pixels.shape[0], pixels.shape[1]), np.arange(classes), 0.0
    samples = equal_squares(*size, 1)
    if mode != "exact" and can_prune(pixels, params):
        blocks = equal_squares(*size, BLOCK_SIDE)
        few = params.model_copy(update={"steps": STEPS})
        coarse = refine(pixels, blocks, unary.rows(blocks, order, rest), few, SETTLING[mode]).lanes()
        before = unary.best_classes()
        order, rest = choose(coarse, np.bincount(before.reshape(-1), minlength=classes))
        if mode == "fast":
            samples = squares(*size, sides_of(blocks, coarse, before))
    return refine(pixels, samples, unary.rows(samples, order, rest), params, SETTLING[mode])


def refine(pixels: NDArray, samples: Samples, rows: Rows, params: CRFParams, settling: Settling) -> Refined:
    """Run the mean field on samples of an image [height, width, channels], uint8 or float32."""
    compatibility = _lane_compatibility(params, rows)
    if not params.steps:
        return Refined(samples, rows, None, None, compatibility)
    features = bilateral_features(pixels, samples, params.sigma_alpha, params.sigma_beta)
    kernels = (
        kernel_between(samples, features, params.w1, params.normalisation),
        _position_kernel(samples, params.sigma_gamma, params.w2, params.normalisation),
    )
    return Refined(samples, rows, *mean_field(rows, kernels, compatibility, params, settling), compatibility)


def _position_kernel(samples: Samples, sigma: float, weight: float, normalisation: Normalisation) -> Kernel:
    """The kernel over position alone."""
    if samples.side is None:
        return kernel_between(samples, position_features(samples, sigma), weight, normalisation)
    return _kept_position_kernel(samples.size, samples.side, sigma, weight, normalisation)


@lru_cache(maxsize=4)
def _kept_position_kernel(
    size: tuple[int, int], side: int, sigma: float, weight: float, normalisation: Normalisation
) -> Kernel:
    """That of equal squares: it depends on the image's size only and is kept for the next one."""
    samples = equal_squares(*size, side)
    kernel = kernel_between(samples, position_features(samples, sigma), weight, normalisation)
    return kernel._replace(places=kernel.places.copy())  # out of what the next lattice uses


def _lane_compatibility(params: CRFParams, rows: Rows) -> Compatibility:
    """The compatibility of the classes that the rows' lanes hold, and of those that were left out."""
    given = params.label_compatibility(rows.of)
    if rows.used == rows.classes and given is None:
        return Compatibility(None, None)
    lanes = np.zeros((rows.width,) * (1 if given is None else given.ndim), np.float32)
    if given is not None and given.ndim == 2:
        lanes[: rows.classes, : rows.classes] = -given[np.ix_(rows.order, rows.order)].T
        return Compatibility(None, lanes)
    lanes[: rows.classes] = 1 if given is None else given[rows.order]
    lanes[rows.classes : rows.used] = rows.rest
    return Compatibility(lanes, None)
