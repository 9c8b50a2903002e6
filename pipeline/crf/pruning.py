"""Leaving classes out of a dense CRF that do not win a pixel.

Every class costs its share of each step, and of a data set's classes most are not in an image. A coarse CRF of all
classes, on one pixel of 16, tells which ones are; a class that wins pixels before the CRF is kept as well, for what is
smaller than the coarse grid. The others are not dropped but go on as one lane, which holds their probability's sum:
they cannot win, but they still weigh in the softmax. (Dropped, they would change 40 times as many labels.) That sum's
message is not theirs: of n classes alike, each has 1/n of it, so it is multiplied by sum q² / (sum q)².
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.crf.params import CRFParams

EVERY = 4  # of the coarse grid, in pixels
GRID = slice(EVERY // 2, None, EVERY)
STEPS = 3  # of the coarse CRF
LIKELY = 0.3  # of the best class's probability, after the coarse CRF, at any pixel
WINS = 1e-4  # share of pixels, before the CRF
CHUNK = 1 << 12  # pixels


def can_prune(pixels: NDArray, params: CRFParams) -> bool:
    """Whether the image has a coarse grid, and the classes messages of their own."""
    matrix = params.compatibility is not None and isinstance(params.compatibility[0], tuple)
    return min(pixels.shape[:2]) >= 8 * EVERY and params.steps > 0 and not matrix


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
        coarse: probabilities after a coarse CRF, [classes, height, width].
        wins: for each class at how many of its pixels it is the best one before the CRF.
    """
    likely = (coarse >= LIKELY * coarse.max(axis=0)).any(axis=(1, 2))
    order = np.flatnonzero(likely | (wins > WINS * wins.sum()))
    mass = np.delete(coarse.mean(axis=(1, 2)), order)
    return Kept(order, float((mass**2).sum() / max(mass.sum() ** 2, 1e-30)))


def count_best(given: NDArray, *, smallest: bool) -> NDArray[np.int64]:
    """For each class at how many pixels of [classes, pixels] it has the largest number, or the smallest."""
    wins = np.zeros(len(given), np.int64)
    for start in range(0, given.shape[1], CHUNK):
        part = np.ascontiguousarray(given[:, start : start + CHUNK], np.float32)
        _count(-part if smallest else part, wins)
    return wins


@njit(nogil=True, cache=True)
def _count(part, wins):
    best, label = part[0].copy(), np.zeros(part.shape[1], np.int32)
    for c in range(1, len(part)):
        for q in range(part.shape[1]):
            better = part[c, q] > best[q]
            best[q] = part[c, q] if better else best[q]
            label[q] = c if better else label[q]
    for q in range(part.shape[1]):
        wins[label[q]] += 1
