"""Refine an image's class probabilities by a dense CRF."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.crf.inference import refine
from pipeline.crf.params import CRFParams, Mode
from pipeline.crf.pruning import EVERY, STEPS, can_prune, choose, count_best
from pipeline.crf.rows import rows_of

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
        mode: see `Mode`.
        output: what to return.

    Returns:
        int32 labels [height, width], or float32 probabilities [classes, height, width].

    Raises:
        ValueError: shapes that do not fit, no pixel, too many classes, numbers that are not finite, or widths that are
            too small for the image.
    """
    params = params or CRFParams()
    pixels = image_array(image)
    given = _given(probabilities, unary, pixels.shape[:2])
    classes, of_probabilities = len(given), unary is None
    flat, every_class = given.reshape(classes, -1), np.arange(classes)
    kept, rest = every_class, 0.0
    if mode != "exact" and can_prune(pixels, params):
        grid = (slice(EVERY // 2, None, EVERY),) * 2
        coarse_rows = rows_of(given[:, *grid].reshape(classes, -1), every_class, probabilities=of_probabilities)
        coarse = refine(pixels[grid], coarse_rows, params.model_copy(update={"steps": STEPS}), every=EVERY)
        kept, rest = choose(coarse.probabilities(classes), count_best(flat, smallest=not of_probabilities))
    rows = rows_of(flat, kept, probabilities=of_probabilities, rest=rest)
    refined = refine(pixels, rows, params, half=mode == "fast" and min(pixels.shape[:2]) > 1)
    if output == "labels":
        return refined.labels().reshape(pixels.shape[:2])
    return refined.probabilities(classes).reshape(given.shape)


def image_array(image: ArrayLike) -> NDArray:
    """The image as [height, width, channels], uint8 or float32, contiguous.

    Raises:
        ValueError: another shape, no pixel, or numbers that are not finite.
    """
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(f"image: expected [height, width] or [height, width, channels], not {np.shape(image)}")
    pixels = np.ascontiguousarray(pixels, None if pixels.dtype == np.uint8 else np.float32)
    if pixels.dtype != np.uint8 and not np.isfinite(pixels).all():
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
