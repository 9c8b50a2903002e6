"""Refine a network's coarse score map by a dense CRF, without full-size probabilities of all classes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.crf.compiling import njit
from pipeline.crf.dense import MAX_CLASSES, image_array, image_tiles
from pipeline.crf.inference import infer
from pipeline.crf.lanes import broadcast, load, scale_add, store
from pipeline.crf.params import CRFParams, Mode
from pipeline.crf.rows import PADDING_SCORE, Rows, empty_rows
from pipeline.crf.samples import Samples
from pipeline.crf.tiles import MAX_BYTES


class RefinedLabels(NamedTuple):
    """Labels after the CRF.

    Attributes:
        labels: int32 [height, width].
        changed: number of pixels whose label is not the best class of the interpolated scores.
    """

    labels: NDArray[np.int32]
    changed: int


def crf_of_scores(
    image: ArrayLike,
    scores: ArrayLike,
    *,
    stride: int,
    params: CRFParams | None = None,
    mode: Mode = "pruned",
    max_bytes: int = MAX_BYTES,
) -> RefinedLabels:
    """Upsample a network's scores bilinearly, as DeepLab does, and refine the labels by a dense CRF.

    Args:
        image: uint8 or float [height, width] or [height, width, channels], in grey levels 0..255.
        scores: float16 or float32 logits [classes, ceil(height / stride), ceil(width / stride)].
        stride: output stride of the network. As in `models.upsampling.upsample`, scores are upsampled by this factor
            whatever the image's size, and cropped to the image.
        params: parameters of the CRF; the defaults of `CRFParams` if None.
        mode: see `Mode`.
        max_bytes: approximate limit of the working memory; see `dense_crf`.

    Raises:
        ValueError: The shapes do not fit, the image is empty, there are too many classes, a value is not finite, a
            kernel's width is too small for the image, or the memory limit is too low for the tiles' overlap.
    """
    params = params or CRFParams()
    pixels = image_array(image)
    height, width, _ = pixels.shape
    coarse = _score_array(scores, (height, width), stride)
    labels, changed = np.empty((height, width), np.int32), 0
    for tile in image_tiles(pixels.shape, params, classes=coarse.shape[2], max_bytes=max_bytes, align=stride):
        rows, columns = tile.outer
        tile_pixels = pixels[tile.outer]
        tile_scores = coarse[
            rows.start // stride : -(-rows.stop // stride), columns.start // stride : -(-columns.stop // stride)
        ]
        unary = _ScoreMapUnary(np.ascontiguousarray(tile_scores), size=tile_pixels.shape[:2], stride=stride)
        refined = infer(tile_pixels, unary, classes=coarse.shape[2], params=params, mode=mode).labels()
        labels[tile.inner] = refined[tile.kept]
        changed += int(np.count_nonzero(refined[tile.kept] != unary.best_classes()[tile.kept]))
    return RefinedLabels(labels, changed)


class _ScoreMapUnary:
    """Unary term from coarse scores, which are interpolated only at the samples and for the kept classes.

    Args:
        coarse: float32 [ceil(height / stride), ceil(width / stride), classes], contiguous.
        size: (height, width) of the image.
        stride: output stride of the network.
    """

    def __init__(self, coarse: NDArray[np.float32], *, size: tuple[int, int], stride: int):
        self._coarse = coarse
        self._stride = stride
        self._best_classes = np.empty(size, np.int32)
        _write_best(coarse, stride, self._best_classes)

    def rows(self, samples: Samples, kept: NDArray[np.intp], rest_factor: float) -> Rows:
        """Return interpolated scores.

        The rest lane is the log of the sum of the pruned classes' e^score, taken on the coarse grid and interpolated
        like a score. It only corrects the softmax, for which this is accurate enough.
        """
        height, width, classes = self._coarse.shape
        rows = empty_rows(samples, kept, num_classes=classes, rest_factor=rest_factor)
        lanes = np.full((height, width, rows.width), PADDING_SCORE, np.float32)
        lanes[..., : len(kept)] = self._coarse[..., kept]
        if rows.used_lanes > len(kept):
            pruned = np.delete(self._coarse, kept, axis=2)
            highest = pruned.max(axis=2, keepdims=True)
            lanes[..., len(kept)] = highest[..., 0] + np.log(np.exp(pruned - highest).sum(axis=2))
        _fill_rows(
            lanes.reshape(-1), height, width, self._stride, *samples.squares, rows.scores, rows.width, rows.lanes
        )
        return rows

    def best_classes(self) -> NDArray[np.int32]:
        return self._best_classes


def _score_array(scores: ArrayLike, size: tuple[int, int], stride: int) -> NDArray[np.float32]:
    """Return the scores as float32 [ceil(height / stride), ceil(width / stride), classes]."""
    given = np.asarray(scores)
    check_shape(given.shape, size, stride)
    if not np.isfinite(given).all():
        raise ValueError("scores: NaN or infinity")
    return np.ascontiguousarray(given.transpose(1, 2, 0), np.float32)


def check_shape(shape: tuple[int, ...], size: tuple[int, int], stride: int) -> None:
    """Refuse a score map of a shape that does not fit the image.

    Args:
        shape: shape of the score map.
        size: (height, width) of the image.
        stride: output stride of the network.

    Raises:
        ValueError: The shape does not fit.
    """
    expected = tuple(-(-side // stride) for side in size) if stride >= 1 else ()
    if len(shape) != 3 or shape[1:] != expected or not 1 <= shape[0] <= MAX_CLASSES:
        raise ValueError(
            f"scores: expected [classes, {', '.join(map(str, expected))}] for an image of {size[1]}x{size[0]} pixels "
            f"at stride {stride}, with 1 to {MAX_CLASSES} classes, not {shape}"
        )


@njit(nogil=True, cache=True)
def _neighbours(position, stride, size):
    """Return the two coarse pixels around a pixel and the weight of the second, with half-pixel centres."""
    at = max((position + 0.5) / stride - 0.5, 0.0)
    low = int(at)
    return low, min(low + 1, size - 1), np.float32(at - low)


@njit(nogil=True, cache=True)
def _fill_rows(coarse, height, width, stride, ys, xs, sides, scores, row_width, lanes):
    """Interpolate the rows of a coarse grid at the middle pixels of the samples."""
    one, zeros = np.float32(1), broadcast(np.float32(0), lanes)
    for i in range(len(ys)):
        above, below, down = _neighbours(ys[i] + sides[i] // 2, stride, height)
        left, right, along = _neighbours(xs[i] + sides[i] // 2, stride, width)
        for part in range(0, row_width, len(lanes)):
            a = load(coarse, (above * width + left) * row_width + part, lanes)
            b = load(coarse, (above * width + right) * row_width + part, lanes)
            c = load(coarse, (below * width + left) * row_width + part, lanes)
            d = load(coarse, (below * width + right) * row_width + part, lanes)
            upper = scale_add(b, along, scale_add(a, one - along, zeros))
            lower = scale_add(d, along, scale_add(c, one - along, zeros))
            store(scores, i * row_width + part, scale_add(lower, down, scale_add(upper, one - down, zeros)))


@njit(nogil=True, cache=True)
def _write_best(coarse, stride, labels):
    """Write the best class of the interpolated scores at each pixel.

    If the four coarse pixels around a pixel have the same best class, so does the pixel, because the interpolated score
    of every class is the same weighted mean.
    """
    height, width, classes = coarse.shape
    best = np.empty((height, width), np.int32)
    for y in range(height):
        for x in range(width):
            best[y, x] = np.argmax(coarse[y, x])
    for y in range(labels.shape[0]):
        above, below, down = _neighbours(y, stride, height)
        for x in range(labels.shape[1]):
            left, right, along = _neighbours(x, stride, width)
            label = best[above, left]
            if best[above, right] != label or best[below, left] != label or best[below, right] != label:
                highest = np.float32(-np.inf)
                for c in range(classes):
                    upper = coarse[above, left, c] + along * (coarse[above, right, c] - coarse[above, left, c])
                    lower = coarse[below, left, c] + along * (coarse[below, right, c] - coarse[below, left, c])
                    score = upper + down * (lower - upper)
                    if score > highest:
                        label, highest = c, score
            labels[y, x] = label
