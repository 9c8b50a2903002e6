"""Features of samples, in units of a Gaussian kernel's width."""

import numpy as np
from numpy.typing import NDArray

from pipeline.crf.compiling import njit
from pipeline.crf.lanes import peek, poke
from pipeline.crf.lattice import Features
from pipeline.crf.memory import scratch
from pipeline.crf.samples import Samples

NO_COLOURS = np.zeros((0, 0, 0), np.uint8)


def spatial_features(samples: Samples, sigma: float) -> Features:
    """Return the x and y coordinates of the samples' centres, divided by sigma."""
    return Features(_feature_array(NO_COLOURS, samples, sigma, 1), *_spatial_bounds(samples, sigma))


def bilateral_features(pixels: NDArray, samples: Samples, sigma: float, sigma_colour: float) -> Features:
    """Return the samples' coordinates divided by sigma and their colours divided by sigma_colour.

    Args:
        pixels: uint8 or float32 [height, width, channels].
        samples: samples of that image; a sample has the colour of its middle pixel.
        sigma: width of the kernel in pixels.
        sigma_colour: width of the kernel in grey levels.
    """
    values = _feature_array(pixels, samples, sigma, sigma_colour)
    low, high = _spatial_bounds(samples, sigma)
    extremes = np.array([pixels.min(), pixels.max()], np.float32) / np.float32(sigma_colour)
    darkest, brightest = (np.full(pixels.shape[2], colour, np.float32) for colour in extremes)
    return Features(values, np.concatenate([low, darkest]), np.concatenate([high, brightest]))


def _spatial_bounds(samples: Samples, sigma: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    height, width = samples.size
    return np.zeros(2, np.float32), np.array([width / sigma, height / sigma], np.float32)


def _feature_array(pixels: NDArray, samples: Samples, sigma: float, sigma_colour: float) -> NDArray[np.float32]:
    dimensions = 2 + pixels.shape[2]
    values = scratch(f"features, {dimensions} dimensions", (len(samples.ys), dimensions))
    _fill_features(
        pixels.reshape(-1), samples.size[1], *samples.squares, np.float32(1 / sigma), np.float32(1 / sigma_colour),
        dimensions, values.reshape(-1),
    )  # fmt: skip
    return values


@njit(nogil=True, cache=True)
def _fill_features(colours, image_width, ys, xs, sides, scale, colour_scale, d, values):
    for i in range(len(ys)):
        y, x, side = np.int64(peek(ys, i)), np.int64(peek(xs, i)), np.int64(peek(sides, i))
        to_centre = np.float32(0.5) * np.float32(side - 1)
        poke(values, i * d, (np.float32(x) + to_centre) * scale)
        poke(values, i * d + 1, (np.float32(y) + to_centre) * scale)
        middle = ((y + (side >> 1)) * image_width + x + (side >> 1)) * (d - 2)
        for c in range(d - 2):
            poke(values, i * d + 2 + c, np.float32(peek(colours, middle + c)) * colour_scale)
