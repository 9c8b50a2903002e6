"""Refine an image's class probabilities by a dense CRF."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.crf.lanes import aligned
from pipeline.crf.mean_field import bilateral_kernel, gaussian_kernel, mean_field
from pipeline.crf.params import CRFParams

MAX_CLASSES = 64  # a row of scores stays in registers, or nearly
MIN_PROBABILITY = 1e-8  # log 0 would rule a class out whatever its neighbours are
ABSENT = -1e4  # the score of lanes that hold no class


def dense_crf(
    image: ArrayLike,
    *,
    probabilities: ArrayLike | None = None,
    unary: ArrayLike | None = None,
    params: CRFParams | None = None,
    output: Literal["labels", "probabilities"] = "labels",
) -> NDArray:
    """Mean-field inference in the fully connected CRF (Krähenbühl & Koltun 2011; DeepLab v1, section 3.2).

    The same input always gives the same result. The loops hold no GIL: threads run at the same time.

    Args:
        image: [height, width] or [height, width, channels], uint8 or float, in grey levels 0..255.
        probabilities: [classes, height, width], the network's; or
        unary: -log of them, up to a constant of each pixel.
        params: DeepLab's, if not told.
        output: what to return.

    Returns:
        int32 labels [height, width], or float32 probabilities [classes, height, width].

    Raises:
        ValueError: shapes that do not fit, no pixel, too many classes, or numbers that are not finite.
    """
    params = params or CRFParams()
    pixels = _image(image)
    size = (pixels.shape[0], pixels.shape[1])
    scores = _scores(probabilities, unary, size)
    classes = len(scores)
    lanes = -(-classes // 8) * 8
    rows = aligned(scores[0].size * lanes).reshape(-1, lanes)
    rows[:, :classes] = scores.reshape(classes, -1).T
    rows[:, classes:] = ABSENT
    if params.steps:
        kernels = bilateral_kernel(pixels, params), gaussian_kernel(*size, params)
        rows = mean_field(rows.reshape(-1), kernels, steps=params.steps, lanes=lanes).reshape(-1, lanes)
    refined = rows[:, :classes].T.reshape(classes, *size)
    if output == "labels":
        return refined.argmax(axis=0).astype(np.int32)
    refined = np.exp(refined - refined.max(axis=0))
    return refined / refined.sum(axis=0)


def _image(image: ArrayLike) -> NDArray[np.float32]:
    """The image as float32 [height, width, channels]."""
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(f"image: expected [height, width] or [height, width, channels], not {np.shape(image)}")
    pixels = pixels.astype(np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError("image: NaN or infinity")
    return pixels


def _scores(probabilities: ArrayLike | None, unary: ArrayLike | None, size: tuple[int, int]) -> NDArray[np.float32]:
    """log-probabilities up to a constant of each pixel, float32 [classes, height, width]."""
    if (probabilities is None) == (unary is None):
        raise ValueError("expected either probabilities or unary")
    name = "probabilities" if unary is None else "unary"
    given = np.asarray(probabilities if unary is None else unary, np.float32)
    if given.ndim != 3 or given.shape[1:] != size or not 1 <= len(given) <= MAX_CLASSES:
        raise ValueError(
            f"{name}: expected [classes, {size[0]}, {size[1]}] with 1 to {MAX_CLASSES} classes, as the image is, "
            f"not {given.shape}"
        )
    if not np.isfinite(given).all():
        raise ValueError(f"{name}: NaN or infinity")
    return -given if probabilities is None else np.log(np.maximum(given, np.float32(MIN_PROBABILITY)))
