"""From a network's coarse score map to refined labels, without full-size probabilities of all classes."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from pipeline.crf.dense import MAX_CLASSES, image_array, image_tiles
from pipeline.crf.inference import infer
from pipeline.crf.lanes import load, row_of, scale_add, store
from pipeline.crf.params import CRFParams, Mode
from pipeline.crf.rows import ABSENT, Rows, empty_rows
from pipeline.crf.samples import Samples
from pipeline.crf.tiles import MAX_BYTES


class RefinedLabels(NamedTuple):
    """What a CRF makes of a score map.

    Attributes:
        labels: int32 [height, width].
        changed: at how many pixels they are not the best class of the interpolated scores.
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
    """Upsample a network's scores as DeepLab does, bilinearly, and refine them by a dense CRF.

    Args:
        image: [height, width] or [height, width, channels], uint8 or float, in grey levels 0..255.
        scores: logits, float16 or float32, [classes, ceil(height / stride), ceil(width / stride)].
        stride: the network's output stride. As in `models.upsampling.upsample` it is the factor whatever the image's
            size, and what reaches beyond the image is cropped.
        params: DeepLab's, if not told.
        mode: see `Mode`.
        max_bytes: of working memory, about; see `dense_crf`.

    Raises:
        ValueError: shapes that do not fit, no pixel, too many classes, numbers that are not finite, or widths that are
            too small for the image.
    """
    params = params or CRFParams()
    pixels = image_array(image)
    height, width, _ = pixels.shape
    coarse = _score_array(scores, (height, width), stride)
    labels, changed = np.empty((height, width), np.int32), 0
    for tile in image_tiles(pixels, params, classes=coarse.shape[2], max_bytes=max_bytes, align=stride):
        rows, columns = tile.outer
        part = coarse[
            rows.start // stride : -(-rows.stop // stride), columns.start // stride : -(-columns.stop // stride)
        ]
        tile_pixels = pixels[tile.outer]
        unary = _ScoreMapUnary(np.ascontiguousarray(part), size=tile_pixels.shape[:2], stride=stride)
        refined = infer(tile_pixels, unary, classes=coarse.shape[2], params=params, mode=mode).labels()
        labels[tile.inner] = refined[tile.kept]
        changed += int(np.count_nonzero(refined[tile.kept] != unary.best_classes()[tile.kept]))
    return RefinedLabels(labels, changed)


class _ScoreMapUnary:
    """The unary term given as a network's coarse scores, interpolated bilinearly where they are needed.

    Args:
        coarse: float32 [ceil(height / stride), ceil(width / stride), classes], contiguous.
        size: (height, width) of the image.
        stride: the network's output stride.
    """

    def __init__(self, coarse: NDArray[np.float32], *, size: tuple[int, int], stride: int):
        self._coarse = coarse
        self._stride = stride
        self._best_classes = np.empty(size, np.int32)
        _best(coarse, stride, self._best_classes)

    def rows(self, samples: Samples, kept: NDArray[np.intp], rest_factor: float) -> Rows:
        return _interpolate(self._coarse, samples, kept, rest_factor, self._stride)

    def best_classes(self) -> NDArray[np.int32]:
        return self._best_classes


def _score_array(scores: ArrayLike, size: tuple[int, int], stride: int) -> NDArray[np.float32]:
    """float32 [ceil(height / stride), ceil(width / stride), classes]."""
    given = np.asarray(scores)
    expected = tuple(-(-side // stride) for side in size)
    if stride < 1 or given.ndim != 3 or given.shape[1:] != expected or not 1 <= len(given) <= MAX_CLASSES:
        raise ValueError(
            f"scores: expected [classes, {expected[0]}, {expected[1]}] with 1 to {MAX_CLASSES} classes, as the image "
            f"of {size[1]}x{size[0]} has at stride {stride}, not {given.shape}"
        )
    if not np.isfinite(given).all():
        raise ValueError("scores: NaN or infinity")
    return np.ascontiguousarray(given.transpose(1, 2, 0), np.float32)


def _interpolate(
    coarse: NDArray[np.float32], samples: Samples, order: NDArray[np.intp], rest: float, stride: int
) -> Rows:
    """Rows of some classes. The lane of the others is the log of the sum of their e^score, interpolated like a score: a
    correction to the softmax, for which that is near enough."""
    classes = coarse.shape[2]
    rows = empty_rows(samples, order, of=classes, rest=rest)
    lanes = np.full((*coarse.shape[:2], rows.width), ABSENT, np.float32)
    lanes[..., : len(order)] = coarse[..., order]
    if rows.used > len(order):
        others = np.delete(coarse, order, axis=2)
        highest = others.max(axis=2, keepdims=True)
        lanes[..., len(order)] = highest[..., 0] + np.log(np.exp(others - highest).sum(axis=2))
    _fill(lanes.reshape(-1), *coarse.shape[:2], stride, *samples.squares, rows.scores, rows.width, rows.lanes)
    return rows


@njit(nogil=True, cache=True)
def _between(position, stride, size):
    """The two coarse pixels around a pixel and the weight of the second, with half-pixel centres."""
    at = max((position + 0.5) / stride - 0.5, 0.0)
    low = int(at)
    return low, min(low + 1, size - 1), np.float32(at - low)


@njit(nogil=True, cache=True)
def _fill(coarse, height, width, stride, ys, xs, sides, table, row, lanes):
    one, nothing = np.float32(1), row_of(np.float32(0), lanes)
    for i in range(len(ys)):
        above, below, down = _between(ys[i] + sides[i] // 2, stride, height)
        left, right, along = _between(xs[i] + sides[i] // 2, stride, width)
        for part in range(0, row, len(lanes)):
            a = load(coarse, (above * width + left) * row + part, lanes)
            b = load(coarse, (above * width + right) * row + part, lanes)
            c = load(coarse, (below * width + left) * row + part, lanes)
            d = load(coarse, (below * width + right) * row + part, lanes)
            upper = scale_add(b, along, scale_add(a, one - along, nothing))
            lower = scale_add(d, along, scale_add(c, one - along, nothing))
            store(table, i * row + part, scale_add(lower, down, scale_add(upper, one - down, nothing)))


@njit(nogil=True, cache=True)
def _best(coarse, stride, labels):
    """The best class of each pixel. Where the four scores around it have one best class, it is that: no other can
    overtake between them."""
    height, width, classes = coarse.shape
    best = np.empty((height, width), np.int32)
    for y in range(height):
        for x in range(width):
            best[y, x] = np.argmax(coarse[y, x])
    for y in range(labels.shape[0]):
        above, below, down = _between(y, stride, height)
        for x in range(labels.shape[1]):
            left, right, along = _between(x, stride, width)
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
