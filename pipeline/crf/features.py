"""What the kernels compare pixels by."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.crf.lattice import Features

NO_COLOURS = np.zeros((0, 0), np.uint8)


def position_features(height: int, width: int, sigma: float, *, every: int = 1) -> Features:
    """x and y of the centres of squares of `every` pixels, over sigma."""
    values = np.empty((height * width, 2), np.float32)
    _fill(NO_COLOURS, width, every, np.float32(1 / sigma), np.float32(0), values)
    return Features(values, *_bounds(height, width, sigma, every))


def bilateral_features(pixels: NDArray, sigma: float, sigma_colour: float, *, every: int = 1) -> Features:
    """Those, and the colours of an image [height, width, channels] over a width of their own."""
    height, width, channels = pixels.shape
    values = np.empty((height * width, 2 + channels), np.float32)
    flat = np.ascontiguousarray(pixels).reshape(-1, channels)
    _fill(flat, width, every, np.float32(1 / sigma), np.float32(1 / sigma_colour), values)
    low, high = _bounds(height, width, sigma, every)
    colours = np.array([pixels.min(), pixels.max()], np.float32) / np.float32(sigma_colour)
    each = [np.full(channels, colour, np.float32) for colour in colours]
    return Features(values, np.concatenate([low, each[0]]), np.concatenate([high, each[1]]))


def _bounds(height: int, width: int, sigma: float, every: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.zeros(2, np.float32), np.array([width * every / sigma, height * every / sigma], np.float32)


@njit(nogil=True, cache=True)
def _fill(colours, width, every, scale, colour_scale, values):
    centre = np.float32((every - 1) / 2)
    for y in range(len(values) // width):
        for x in range(width):
            p = y * width + x
            values[p, 0] = (x * every + centre) * scale
            values[p, 1] = (y * every + centre) * scale
            for c in range(values.shape[1] - 2):
                values[p, 2 + c] = colours[p, c] * colour_scale
