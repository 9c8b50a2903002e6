"""What a dense CRF can leave out: classes that do not win a pixel, and pixels that are settled beforehand.

A coarse CRF of all classes, on one pixel of 16, tells.

Classes: every one costs its share of each step, and of a data set's classes most are not in an image. Kept are those
that the coarse CRF finds likely anywhere, and for what is smaller than its grid those that win pixels before the CRF.
The others are not dropped but go on as one lane, which holds their probability's sum: they cannot win, but they still
weigh in the softmax. (Dropped, they would change 40 times as many labels.) That sum's message is not theirs: of n
classes alike, each has 1/n of it, so it is multiplied by sum q² / (sum q)².

Pixels, in fast mode: where a block of 4x4 pixels is of one class, before the coarse CRF and after it, and those around
it are the same, one pixel of each 2x2 stands for all; two blocks further in, one of 4x4. Whatever is not that clear is
seen at full resolution. For it 0.25% of the labels on the mean are not those of the exact mode, on 101 photographs of
streets; under 0.5% on 95 of 100, and 2% on one, where a region's class hangs by a hair.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.crf.params import CRFParams
from pipeline.crf.samples import BLOCK_SIDE, Samples, blocks

STEPS = 2  # of the coarse CRF
LIKELY = 0.3  # of the best class's probability, after the coarse CRF, at any pixel
WINS = 1e-4  # share of pixels, before the CRF
SURE = 0.97  # probability after the coarse CRF


def can_prune(pixels: NDArray, params: CRFParams) -> bool:
    """Whether the image has a coarse grid, and the classes messages of their own."""
    matrix = params.compatibility is not None and isinstance(params.compatibility[0], tuple)
    return min(pixels.shape[:2]) >= 8 * BLOCK_SIDE and params.steps > 0 and not matrix


class Kept(NamedTuple):
    """Which classes are kept.

    Attributes:
        order: int [kept], ascending.
        rest: what the messages of the others' lane are multiplied by.
    """

    order: NDArray[np.intp]
    rest: float


def choose(coarse: NDArray[np.float32], wins: NDArray[np.int64]) -> Kept:
    """Choose the classes of an image.

    Args:
        coarse: probabilities after a coarse CRF, [classes, samples].
        wins: for each class at how many pixels it is the best one before the CRF.
    """
    likely = (coarse >= LIKELY * coarse.max(axis=0)).any(axis=1)
    order = np.flatnonzero(likely | (wins > WINS * wins.sum()))
    mass = np.delete(coarse.mean(axis=1), order)
    return Kept(order, float((mass**2).sum() / max(mass.sum() ** 2, 1e-30)))


def sides_of(samples: Samples, coarse: NDArray[np.float32], raw: NDArray[np.int32]) -> NDArray[np.int32]:
    """In what squares the pixels of each block of 4x4 are to be seen, int32 [ceil(height / 4), ceil(width / 4)].

    Args:
        samples: one of each block.
        coarse: their probabilities after a coarse CRF, [classes, samples].
        raw: the best classes before the CRF, [height, width].
    """
    height, width = samples.size
    sides = np.ones((-(-height // BLOCK_SIDE), -(-width // BLOCK_SIDE)), np.int32)
    rows, columns = height // BLOCK_SIDE, width // BLOCK_SIDE  # that are whole
    label = np.full(blocks(height, width), -1, np.int32)
    label[samples.ys // BLOCK_SIDE, samples.xs // BLOCK_SIDE] = np.where(
        coarse.max(axis=0) >= SURE, coarse.argmax(axis=0), -1
    )
    label = label[:rows, :columns]
    clear = _alone(label, raw)
    clear &= _around(label, np.maximum) == _around(label, np.minimum)
    sides[:rows, :columns][clear] = 2
    sides[:rows, :columns][_around(_around(clear, np.minimum), np.minimum)] = 4
    return sides


@njit(nogil=True, cache=True)
def _alone(label, raw):
    """Whether a block's label is that of each of its pixels."""
    alone = np.ones(label.shape, np.bool_)
    for row in range(label.shape[0]):
        for y in range(row * BLOCK_SIDE, (row + 1) * BLOCK_SIDE):
            for column in range(label.shape[1]):
                here, at = label[row, column], column * BLOCK_SIDE
                same = here == raw[y, at]
                for x in range(at + 1, at + BLOCK_SIDE):
                    same &= here == raw[y, x]
                alone[row, column] &= same
    return alone


def _around(values: NDArray, extreme: np.ufunc) -> NDArray:
    """The largest or smallest of each value and the eight around it."""
    for axis in (0, 1):
        padded = np.pad(values, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        parts = [padded.take(range(i, i + values.shape[axis]), axis=axis) for i in range(3)]
        values = extreme(extreme(parts[0], parts[1]), parts[2])
    return values
