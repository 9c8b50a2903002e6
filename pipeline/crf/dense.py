"""Refine full-size class probabilities by a dense CRF."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.crf.inference import infer
from pipeline.crf.params import CRFParams, Mode
from pipeline.crf.rows import Rows, best_classes, rows_from_planes
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
    """Refine an image's labels by mean-field inference in a fully connected CRF.

    Krähenbühl & Koltun, NIPS 2011; DeepLab v1, section 3.2. The result is deterministic on one machine. The compiled
    loops release the GIL, so threads run in parallel; each thread keeps some working memory for its next image.

    Args:
        image: uint8 or float [height, width] or [height, width, channels], in grey levels 0..255.
        probabilities: class probabilities of a network, [classes, height, width]. Either these or `unary` are required.
        unary: unary energies [classes, height, width]: -log of the probabilities, up to a constant for each pixel.
        params: parameters of the CRF; the defaults of `CRFParams` if None.
        mode: see `Mode`.
        output: what to return.
        max_bytes: approximate limit of the working memory. A larger image is refined in tiles that overlap by twice
            sigma_alpha; near the seams the result is close to, but not equal to, that of the whole image.

    Returns:
        int32 labels [height, width], or float32 probabilities [classes, height, width].

    Raises:
        ValueError: The shapes do not fit, the image is empty, there are too many classes, a value is not finite, a
            kernel's width is too small for the image, or the memory limit is too low for the tiles' overlap.
    """
    params = params or CRFParams()
    pixels = image_array(image)
    planes = class_planes(probabilities, unary, pixels.shape[:2])
    result: NDArray = np.empty(pixels.shape[:2], np.int32)
    if output == "probabilities":
        result = np.empty(planes.shape, np.float32)
    for tile in image_tiles(pixels.shape, params, classes=len(planes), max_bytes=max_bytes):
        term = _FullSizeUnary(np.ascontiguousarray(planes[:, *tile.outer]), probabilities=unary is None)
        marginals = infer(pixels[tile.outer], term, classes=len(planes), params=params, mode=mode)
        refined = marginals.labels() if output == "labels" else marginals.probabilities()
        result[..., *tile.inner] = refined[..., *tile.kept]
    return result


class _FullSizeUnary:
    """Unary term from full-size probabilities or energies.

    Args:
        planes: float32 [classes, height, width], contiguous.
        probabilities: whether the planes are probabilities; otherwise they are energies.
    """

    def __init__(self, planes: NDArray[np.float32], *, probabilities: bool):
        self._planes = planes
        self._probabilities = probabilities

    def rows(self, samples: Samples, kept: NDArray[np.intp], rest_factor: float) -> Rows:
        return rows_from_planes(self._planes, samples, kept, probabilities=self._probabilities, rest_factor=rest_factor)

    def best_classes(self) -> NDArray[np.int32]:
        return best_classes(self._planes, smallest=not self._probabilities)


def image_tiles(
    shape: tuple[int, ...], params: CRFParams, *, classes: int, max_bytes: int, align: int = 1
) -> Iterator[Tile]:
    """Return the tiles in which to refine an image of a shape (height, width, channels); see `tiles`."""
    height, width, channels = shape
    overlap = int(2 * max(params.sigma_alpha, params.sigma_gamma)) + 1
    max_pixels = max_bytes // bytes_per_pixel(classes, channels)
    return tiles(height, width, max_pixels=max_pixels, overlap=overlap, align=align)


def image_array(image: ArrayLike) -> NDArray:
    """Return the image as contiguous uint8 or float32 [height, width, channels].

    Raises:
        ValueError: The image has another shape, no pixel, or a value that is not finite.
    """
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise ValueError(f"image: expected [height, width] or [height, width, channels], not {np.shape(image)}")
    # An image that another process has sent may be read-only, for which Numba would compile its loops once more.
    pixels = np.require(pixels, None if pixels.dtype == np.uint8 else np.float32, ["C", "W"])
    if pixels.dtype != np.uint8 and not np.isfinite(pixels).all():
        raise ValueError("image: NaN or infinity")
    return pixels


def class_planes(
    probabilities: ArrayLike | None, unary: ArrayLike | None, size: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return the probabilities or the unary energies as float32 [classes, height, width]."""
    if (probabilities is None) == (unary is None):
        raise ValueError("expected either probabilities or unary")
    name = "probabilities" if unary is None else "unary"
    with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused below
        planes = np.asarray(probabilities if unary is None else unary).astype(np.float32, copy=False)
    if planes.ndim != 3 or planes.shape[1:] != size or not 1 <= len(planes) <= MAX_CLASSES:
        raise ValueError(
            f"{name}: expected [classes, {size[0]}, {size[1]}] like the image, with 1 to {MAX_CLASSES} classes, "
            f"not {planes.shape}"
        )
    if not np.isfinite(planes).all():
        raise ValueError(f"{name}: NaN or infinity")
    return planes
