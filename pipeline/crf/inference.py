"""From an image's rows of scores to its refined labels or probabilities."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.crf import filtering
from pipeline.crf.filtering import Compatibility, Passage
from pipeline.crf.mean_field import kernel_between, mean_field, position_kernel, positions
from pipeline.crf.params import CRFParams
from pipeline.crf.rows import Rows, halved


class Refined(NamedTuple):
    """An image's scores and the messages that are still to be sliced; without steps there are none."""

    rows: Rows
    first: Passage | None
    second: Passage | None
    compatibility: Compatibility

    def labels(self) -> NDArray[np.int32]:
        """The best class of each pixel, int32 [pixels]."""
        labels = np.zeros(self.rows.pixels, np.int32)
        filtering.labels_of(
            labels, self.rows.scores, self.first, self.second, *self.compatibility,
            self.rows.classes, self.rows.width, self.rows.lanes,
        )  # fmt: skip
        return self.rows.order.astype(np.int32)[labels]

    def probabilities(self, classes: int) -> NDArray[np.float32]:
        """float32 [classes, pixels]; 0 for classes that were left out."""
        lanes = np.empty((self.rows.used, self.rows.pixels), np.float32)
        filtering.probabilities_of(
            lanes, self.rows.scores, self.first, self.second, *self.compatibility, self.rows.width, self.rows.lanes
        )
        result = np.zeros((classes, self.rows.pixels), np.float32)
        result[self.rows.order] = lanes[: self.rows.classes]
        return result


def refine(pixels: NDArray, rows: Rows, params: CRFParams, *, every: int = 1, half: bool = False) -> Refined:
    """Run the mean field.

    Args:
        pixels: [height, width, channels], uint8 or float32.
        rows: of the pixels.
        every: how many pixels of an image lie between those given.
        half: run all but the last slice on squares of 2x2 pixels.
    """
    compatibility = _lane_compatibility(params, rows)
    if not params.steps:
        return Refined(rows, None, None, compatibility)
    features = _bilateral_features(pixels, params, every=every)
    run = {"steps": params.steps, "stop_below": params.stop_below}
    if not half:
        bilateral = kernel_between(features, params.w1, params.normalisation)
        kernels = bilateral, position_kernel(*pixels.shape[:2], every, params.sigma_gamma, params.w2, params.normalisation)
        return Refined(rows, *mean_field(rows, kernels, compatibility, **run), compatibility)
    height, width, _ = pixels.shape
    small = _half_image(pixels)
    bilateral = kernel_between(
        _bilateral_features(small, params, every=2 * every), params.w1, params.normalisation, others=features
    )
    where = positions(height, width, params.sigma_gamma).reshape(-1, 2)
    gaussian = kernel_between(
        positions(*small.shape[:2], params.sigma_gamma, every=2).reshape(-1, 2), params.w2, params.normalisation,
        others=where,
    )  # fmt: skip
    first, second = mean_field(halved(rows, height, width), (bilateral, gaussian), compatibility, **run)
    first, second = bilateral.passage_to(features, first, rows), gaussian.passage_to(where, second, rows)
    return Refined(rows, first, second, compatibility)


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


def _bilateral_features(pixels: NDArray, params: CRFParams, *, every: int) -> NDArray[np.float32]:
    """Position and colour in widths of the bilateral kernel, float32 [pixels, 2 + channels]."""
    height, width, channels = pixels.shape
    features = np.empty((height, width, 2 + channels), np.float32)
    features[..., :2] = positions(height, width, params.sigma_alpha, every=every)
    _scale(pixels.reshape(-1, channels), np.float32(1 / params.sigma_beta), features.reshape(-1, 2 + channels))
    return features.reshape(height * width, -1)


@njit(nogil=True, cache=True)
def _scale(pixels, factor, features):
    for p in range(len(pixels)):
        for c in range(pixels.shape[1]):
            features[p, 2 + c] = pixels[p, c] * factor


def _half_image(pixels: NDArray) -> NDArray[np.float32]:
    """The means of squares of 2x2 pixels; at odd ends, of what there is."""
    even = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
    return 0.25 * (
        even[::2, ::2].astype(np.float32) + even[::2, 1::2] + even[1::2, ::2] + even[1::2, 1::2]
    )  # uint8 would wrap around
