"""Refine an image's class probabilities by a dense CRF."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.crf.inference import infer
from pipeline.crf.params import CRFParams, Mode
from pipeline.crf.rows import Rows, best_classes, rows_of
from pipeline.crf.samples import Samples
from pipeline.crf.tiles import MAX_BYTES, Tile, bytes_per_pixel, tiles

MAX_CLASSES = 1000


def dense_crf(
    image: ArrayLike,
    *,
    probabilities: ArrayLike | None = None,
    unary: ArrayLike | None = None,
    params: CRFParams | None = None,
    mode: Mode = "exact",
    output: Literal["labels", "probabilities"] = "labels",
    max_bytes: int = MAX_BYTES,
) -> NDArray:
    """Mean-field inference in the fully connected CRF (Krähenbühl & Koltun 2011; DeepLab v1, section 3.2).

    The same input always gives the same result. The loops hold no GIL: threads run at the same time. Each keeps some
    working memory for its next image.

    Args:
        image: [height, width] or [height, width, channels], uint8 or float, in grey levels 0..255.
        probabilities: [classes, height, width], the network's; or
        unary: -log of them, up to a constant of each pixel.
        params: DeepLab's, if not told.
        mode: see `Mode`.
        output: what to return.
        max_bytes: of working memory, about. A larger image is refined in tiles that overlap by twice sigma_alpha; at
            their seams that is near the whole image's result, not equal to it.

    Returns:
        int32 labels [height, width], or float32 probabilities [classes, height, width].

    Raises:
        ValueError: shapes that do not fit, no pixel, too many classes, numbers that are not finite, or widths that are
            too small for the image.
    """
    params = params or CRFParams()
    pixels = image_array(image)
    given = _given(probabilities, unary, pixels.shape[:2])
    whole: NDArray = np.empty(pixels.shape[:2], np.int32)
    if output == "probabilities":
        whole = np.empty(given.shape, np.float32)
    for tile in image_tiles(pixels, params, classes=len(given), max_bytes=max_bytes):
        term = _FullSizeUnary(np.ascontiguousarray(given[:, *tile.outer]), probabilities=unary is None)
        refined = infer(pixels[tile.outer], term, classes=len(given), params=params, mode=mode)
        found = refined.labels() if output == "labels" else refined.probabilities()
        whole[..., *tile.inner] = found[..., *tile.kept]
    return whole


class _FullSizeUnary:
    """The unary term given as full-size probabilities or energies.

    Args:
        values: float32 [classes, height, width], contiguous.
        probabilities: whether the values are probabilities; otherwise they are energies.
    """

    def __init__(self, values: NDArray, *, probabilities: bool):
        self._values = values
        self._probabilities = probabilities

    def rows(self, samples: Samples, kept: NDArray[np.intp], rest_factor: float) -> Rows:
        return rows_of(self._values, samples, kept, probabilities=self._probabilities, rest=rest_factor)

    def best_classes(self) -> NDArray[np.int32]:
        return best_classes(self._values, smallest=not self._probabilities)


def image_tiles(pixels: NDArray, params: CRFParams, *, classes: int, max_bytes: int, align: int = 1) -> Iterator[Tile]:
    """The tiles in which an image [height, width, channels] is refined."""
    height, width, channels = pixels.shape
    overlap = int(2 * max(params.sigma_alpha, params.sigma_gamma)) + 1
    max_pixels = max_bytes // bytes_per_pixel(classes, channels)
    return tiles(height, width, max_pixels=max_pixels, overlap=overlap, align=align)


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
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused below
        given = np.asarray(probabilities if unary is None else unary).astype(np.float32, copy=False)
    if given.ndim != 3 or given.shape[1:] != size or not 1 <= len(given) <= MAX_CLASSES:
        raise ValueError(
            f"{name}: expected [classes, {size[0]}, {size[1]}] with 1 to {MAX_CLASSES} classes, as the image is, "
            f"not {given.shape}"
        )
    if not np.isfinite(given).all():
        raise ValueError(f"{name}: NaN or infinity")
    return given
