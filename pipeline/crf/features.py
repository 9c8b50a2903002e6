"""What the kernels compare pixels by."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.crf.lattice import Features
from pipeline.crf.strips import STRIP, strips

NO_COLOURS = np.zeros((0, 0, 0), np.uint8)


def position_features(height: int, width: int, sigma: float, *, every: int = 1, strip: int = STRIP) -> Features:
    """x and y of the centres of squares of `every` pixels, over sigma, in the order of strips."""
    values = np.empty((height * width, 2), np.float32)
    for columns, places in strips(height, width, strip=strip):
        part = values[places].reshape(height, -1, 2)
        _fill(NO_COLOURS, columns.start, every, np.float32(1 / sigma), np.float32(0), part)
    return Features(values, *_bounds(height, width, sigma, every))


def bilateral_features(
    pixels: NDArray, sigma: float, sigma_colour: float, *, every: int = 1, strip: int = STRIP
) -> Features:
    """Those, and the colours of an image [height, width, channels] over a width of their own."""
    height, width, channels = pixels.shape
    values = np.empty((height * width, 2 + channels), np.float32)
    for columns, places in strips(height, width, strip=strip):
        part = values[places].reshape(height, -1, 2 + channels)
        _fill(pixels[:, columns], columns.start, every, np.float32(1 / sigma), np.float32(1 / sigma_colour), part)
    low, high = _bounds(height, width, sigma, every)
    colours = np.array([pixels.min(), pixels.max()], np.float32) / np.float32(sigma_colour)
    each = [np.full(channels, colour, np.float32) for colour in colours]
    return Features(values, np.concatenate([low, each[0]]), np.concatenate([high, each[1]]))


def _bounds(height: int, width: int, sigma: float, every: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.zeros(2, np.float32), np.array([width * every / sigma, height * every / sigma], np.float32)


@njit(nogil=True, cache=True)
def _fill(colours, start, every, scale, colour_scale, values):
    """Values [height, columns, d] of the columns from a start on."""
    centre = np.float32((every - 1) / 2)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            values[y, x, 0] = ((start + x) * every + centre) * scale
            values[y, x, 1] = (y * every + centre) * scale
            for c in range(values.shape[2] - 2):
                values[y, x, 2 + c] = colours[y, x, c] * colour_scale
