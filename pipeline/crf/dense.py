"""Refine an image's class probabilities by a dense CRF."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.crf import filtering
from pipeline.crf.filtering import Compatibility, Passage
from pipeline.crf.mean_field import kernel_between, mean_field, position_kernel, positions
from pipeline.crf.params import CRFParams
from pipeline.crf.pruning import likely_classes
from pipeline.crf.rows import Rows, rows_of

Mode = Literal["exact", "pruned", "fast"]
MAX_CLASSES = 1000


def dense_crf(
    image: ArrayLike,
    *,
    probabilities: ArrayLike | None = None,
    unary: ArrayLike | None = None,
    params: CRFParams | None = None,
    mode: Mode = "exact",
    output: Literal["labels", "probabilities"] = "labels",
) -> NDArray:
    """Mean-field inference in the fully connected CRF (Krähenbühl & Koltun 2011; DeepLab v1, section 3.2).

    The same input always gives the same result. The loops hold no GIL: threads run at the same time.

    Args:
        image: [height, width] or [height, width, channels], uint8 or float, in grey levels 0..255.
        probabilities: [classes, height, width], the network's; or
        unary: -log of them, up to a constant of each pixel.
        params: DeepLab's, if not told.
        mode: `exact`; `pruned`, without the classes that are nowhere likely (see `pruning`); `fast`, that and all steps
            but the last message at half the resolution.
        output: what to return.

    Returns:
        int32 labels [height, width], or float32 probabilities [classes, height, width].

    Raises:
        ValueError: shapes that do not fit, no pixel, too many classes, numbers that are not finite, or widths that are
            too small for the image.
    """
    params = params or CRFParams()
    pixels = image_array(image)
    size = pixels.shape[:2]
    given = _given(probabilities, unary, size)
    classes = len(given)
    given = given.reshape(classes, -1)
    are_probabilities = unary is None
    order = np.arange(classes) if mode == "exact" else likely_classes(given, probabilities=are_probabilities)
    rows = rows_of(given, order, probabilities=are_probabilities)
    return refine(rows, pixels, classes, params=params, fast=mode == "fast", output=output)


def refine(
    rows: Rows,
    pixels: NDArray,
    classes: int,
    *,
    params: CRFParams,
    fast: bool,
    output: Literal["labels", "probabilities"],
) -> NDArray:
    """Refine the rows of some of an image's classes; returns labels or probabilities of all."""
    height, width = pixels.shape[:2]
    compatibility = lane_compatibility(params, rows, classes)
    first, second = _passages(rows, pixels, compatibility, params, fast=fast) if params.steps else (None, None)
    if output == "labels":
        labels = np.empty(height * width, np.int32)
        filtering.labels_of(labels, rows.scores, first, second, *compatibility, rows.classes, rows.width, rows.lanes)
        return rows.order.astype(np.int32)[labels].reshape(height, width)
    refined = np.empty((rows.classes, height * width), np.float32)
    filtering.probabilities_of(refined, rows.scores, first, second, *compatibility, rows.width, rows.lanes)
    result = np.zeros((classes, height, width), np.float32)
    result[rows.order] = refined.reshape(-1, height, width)
    return result


def lane_compatibility(params: CRFParams, rows: Rows, classes: int) -> Compatibility:
    """The compatibility of the classes that the rows' lanes hold."""
    given = params.label_compatibility(classes)
    if given is None:
        return Compatibility(None, None)
    lanes = np.zeros((rows.width,) * given.ndim, np.float32)
    if given.ndim == 1:
        lanes[: rows.classes] = given[rows.order]
        return Compatibility(lanes, None)
    lanes[: rows.classes, : rows.classes] = -given[np.ix_(rows.order, rows.order)].T
    return Compatibility(None, lanes)


def _passages(
    rows: Rows, pixels: NDArray, compatibility: Compatibility, params: CRFParams, *, fast: bool
) -> tuple[Passage, Passage]:
    """The kernels with the values of the last step, for the rows' pixels to slice."""
    height, width = pixels.shape[:2]
    run = {"steps": params.steps, "stop_below": params.stop_below}
    features = bilateral_features(pixels, params)
    kernels = (
        kernel_between(features, params.w1, params.normalisation),
        position_kernel(height, width, params.sigma_gamma, params.w2, params.normalisation),
    )
    return mean_field(rows, kernels, compatibility, **run)


def bilateral_features(pixels: NDArray, params: CRFParams, *, every: int = 1) -> NDArray[np.float32]:
    """Position and colour of an image's pixels, or of squares of `every` pixels, in widths of the bilateral kernel;
    float32 [pixels, 2 + channels]."""
    height, width, channels = pixels.shape
    features = np.empty((height, width, 2 + channels), np.float32)
    features[..., :2] = positions(height, width, params.sigma_alpha, every=every)
    np.multiply(pixels, np.float32(1 / params.sigma_beta), out=features[..., 2:], casting="unsafe")
    return features.reshape(height * width, -1)


def image_array(image: ArrayLike) -> NDArray:
    """The image as [height, width, channels]."""
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(f"image: expected [height, width] or [height, width, channels], not {np.shape(image)}")
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32)
        if not np.isfinite(pixels).all():
            raise ValueError("image: NaN or infinity")
    return pixels


def _given(probabilities: ArrayLike | None, unary: ArrayLike | None, size: tuple[int, ...]) -> NDArray:
    """Probabilities or unary energies, [classes, height, width]."""
    if (probabilities is None) == (unary is None):
        raise ValueError("expected either probabilities or unary")
    name = "probabilities" if unary is None else "unary"
    given = np.asarray(probabilities if unary is None else unary)
    if given.ndim != 3 or given.shape[1:] != size or not 1 <= len(given) <= MAX_CLASSES:
        raise ValueError(
            f"{name}: expected [classes, {size[0]}, {size[1]}] with 1 to {MAX_CLASSES} classes, as the image is, "
            f"not {given.shape}"
        )
    if not np.isfinite(given).all():
        raise ValueError(f"{name}: NaN or infinity")
    return given
