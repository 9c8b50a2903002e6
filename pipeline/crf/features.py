"""What the kernels compare pixels by."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.crf.lanes import peek, poke
from pipeline.crf.lattice import Features
from pipeline.crf.memory import scratch
from pipeline.crf.samples import Samples

NO_COLOURS = np.zeros((0, 0, 0), np.uint8)


def position_features(samples: Samples, sigma: float) -> Features:
    """x and y of the samples' centres, over sigma."""
    return Features(_filled(NO_COLOURS, samples, sigma, 1), *_bounds(samples, sigma))


def bilateral_features(pixels: NDArray, samples: Samples, sigma: float, sigma_colour: float) -> Features:
    """Those, and the colours of an image [height, width, channels] over a width of their own."""
    values = _filled(pixels, samples, sigma, sigma_colour)
    low, high = _bounds(samples, sigma)
    colours = np.array([pixels.min(), pixels.max()], np.float32) / np.float32(sigma_colour)
    each = [np.full(pixels.shape[2], colour, np.float32) for colour in colours]
    return Features(values, np.concatenate([low, each[0]]), np.concatenate([high, each[1]]))


def _bounds(samples: Samples, sigma: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    height, width = samples.size
    return np.zeros(2, np.float32), np.array([width / sigma, height / sigma], np.float32)


def _filled(pixels: NDArray, samples: Samples, sigma: float, sigma_colour: float) -> NDArray[np.float32]:
    dimensions = 2 + pixels.shape[2]
    values = scratch(f"features of {dimensions}", (len(samples.ys), dimensions))
    _fill(
        pixels.reshape(-1), samples.size[1], *samples.squares, np.float32(1 / sigma), np.float32(1 / sigma_colour),
        dimensions, values.reshape(-1),
    )  # fmt: skip
    return values


@njit(nogil=True, cache=True)
def _fill(colours, line, ys, xs, sides, scale, colour_scale, d, values):
    for i in range(len(ys)):
        y, x, side = np.int64(peek(ys, i)), np.int64(peek(xs, i)), np.int64(peek(sides, i))
        centre = np.float32(0.5) * np.float32(side - 1)
        poke(values, i * d, (np.float32(x) + centre) * scale)
        poke(values, i * d + 1, (np.float32(y) + centre) * scale)
        at = ((y + (side >> 1)) * line + x + (side >> 1)) * (d - 2)
        for c in range(d - 2):
            poke(values, i * d + 2 + c, np.float32(peek(colours, at + c)) * colour_scale)
