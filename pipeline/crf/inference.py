"""From an image's rows of scores to its refined labels or probabilities."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.crf import filtering
from pipeline.crf.features import bilateral_features, position_features
from pipeline.crf.filtering import Compatibility, Passage
from pipeline.crf.mean_field import Kernel, View, kernel_between, mean_field
from pipeline.crf.params import CRFParams, Mode, Normalisation
from pipeline.crf.pruning import EVERY, GRID, STEPS, can_prune, choose
from pipeline.crf.rows import Rows, halved
from pipeline.crf.strips import STRIP, to_image


class Refined(NamedTuple):
    """An image's scores and the messages that are still to be sliced; without steps there are none."""

    rows: Rows
    first: Passage | None
    second: Passage | None
    compatibility: Compatibility

    def labels(self) -> NDArray[np.int32]:
        """The best class of each pixel, int32 [height, width]."""
        labels = np.zeros(self.rows.pixels, np.int32)
        filtering.labels_of(
            labels, self.rows.scores, self.first, self.second, *self.compatibility,
            self.rows.classes, self.rows.width, self.rows.lanes,
        )  # fmt: skip
        return to_image(self.rows.order.astype(np.int32)[labels], *self.rows.size)

    def probabilities(self, classes: int) -> NDArray[np.float32]:
        """float32 [classes, height, width]; 0 for classes that were left out."""
        lanes = np.empty((self.rows.used, self.rows.pixels), np.float32)
        filtering.probabilities_of(
            lanes, self.rows.scores, self.first, self.second, *self.compatibility, self.rows.width, self.rows.lanes
        )
        result = np.zeros((classes, *self.rows.size), np.float32)
        result[self.rows.order] = to_image(lanes[: self.rows.classes], *self.rows.size)
        return result


def infer(
    pixels: NDArray,
    rows_at: Callable[[NDArray[np.intp], float, slice], Rows],
    wins: Callable[[], NDArray[np.int64]],
    *,
    classes: int,
    params: CRFParams,
    mode: Mode,
) -> Refined:
    """Choose the classes, as the mode has it, and run the mean field.

    Args:
        pixels: [height, width, channels], uint8 or float32.
        rows_at: makes rows of some classes at every pixel, or at those that a slice takes in both directions; the
            number is `Rows.rest`.
        wins: counts at how many pixels each class is the best one before the CRF.
        classes: of the data set.
        params, mode: of the CRF.
    """
    order, rest = np.arange(classes), 0.0
    if mode != "exact" and can_prune(pixels, params):
        coarse = refine(pixels[GRID, GRID], rows_at(order, rest, GRID), params.model_copy(update={"steps": STEPS}),
                        every=EVERY)  # fmt: skip
        order, rest = choose(coarse.probabilities(classes), wins())
    half = mode == "fast" and min(pixels.shape[:2]) > 1
    return refine(pixels, rows_at(order, rest, slice(None)), params, half=half)


def refine(pixels: NDArray, rows: Rows, params: CRFParams, *, every: int = 1, half: bool = False) -> Refined:
    """Run the mean field.

    Args:
        pixels: [height, width, channels], uint8 or float32.
        rows: of the pixels.
        every: how many pixels of an image lie between those given.
        half: run all but the last slice on a quarter of the pixels, with the mean scores of squares of 2x2.
    """
    compatibility = _lane_compatibility(params, rows)
    if not params.steps:
        return Refined(rows, None, None, compatibility)
    features = bilateral_features(pixels, params.sigma_alpha, params.sigma_beta, every=every)
    height, width, _ = pixels.shape
    if not half:
        bilateral = kernel_between(features, params.w1, params.normalisation)
        gaussian = _position_kernel(height, width, every, params.sigma_gamma, params.w2, params.normalisation)
        return Refined(rows, *mean_field(rows, (bilateral, gaussian), compatibility, params), compatibility)
    small = pixels[::2, ::2]  # not their means: a kernel between means sees less texture than there is
    of_squares = bilateral_features(small, params.sigma_alpha, params.sigma_beta, every=2, strip=STRIP // 2)
    bilateral = kernel_between(
        of_squares._replace(low=features.low, high=features.high), params.w1, params.normalisation
    )
    gaussian = _position_kernel(*small.shape[:2], 2, params.sigma_gamma, params.w2, params.normalisation)
    half_rows = rows._replace(size=(small.shape[0], small.shape[1]), scores=halved(rows))
    first, second = mean_field(half_rows, (bilateral, gaussian), compatibility, params)
    first = bilateral.seen_from(features).passage(first, rows)
    second = _position_view(height, width, params.sigma_gamma, params.w2, params.normalisation).passage(second, rows)
    return Refined(rows, first, second, compatibility)


@lru_cache(maxsize=4)
def _position_kernel(
    height: int, width: int, every: int, sigma: float, weight: float, normalisation: Normalisation
) -> Kernel:
    """The kernel over position alone. It depends on the image's size only and is kept for the next one."""
    strip = STRIP // 2 if every == 2 else STRIP  # as the rows of squares have it
    return kernel_between(position_features(height, width, sigma, every=every, strip=strip), weight, normalisation)


@lru_cache(maxsize=2)
def _position_view(height: int, width: int, sigma: float, weight: float, normalisation: Normalisation) -> View:
    """The kernel of squares of 2x2 pixels as the pixels see it."""
    kernel = _position_kernel(-(-height // 2), -(-width // 2), 2, sigma, weight, normalisation)
    return kernel.seen_from(position_features(height, width, sigma))


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
