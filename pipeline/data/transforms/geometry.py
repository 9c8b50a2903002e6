"""Where a training crop's pixels come from: scale, window, rotation, translation, elastic deformation."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipeline.data.transforms.config import Augmentation

ATTEMPTS = 10  # windows to draw for one in which no class has too large a share

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int32]
Colour = tuple[int, int, int]


class Window(NamedTuple):
    """A part of an image and its place in a crop.

    Attributes:
        box: left, top, right, bottom in the image, in pixels with fractions.
        size: height, width that the box has in the crop.
        target: rows and columns of the crop.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    target: tuple[slice, slice]


def draw_window(
    labels: Labels,
    *,
    crop: tuple[int, int],
    settings: Augmentation,
    ignore_index: int,
    rng: np.random.Generator,
) -> Window:
    """A window of random scale and place, if possible one that no class fills.

    Args:
        labels: int32 [height, width] of the image.
        crop: height, width.
        settings: `scale` and `max_class_share` count.
        ignore_index: label that is no class.
        rng: the source of randomness.
    """
    shape = (labels.shape[0], labels.shape[1])
    window = _any_window(shape, crop, settings.scale, rng)
    for _ in range(ATTEMPTS - 1):
        if settings.max_class_share == 1 or _largest_share(labels, window, ignore_index) <= settings.max_class_share:
            break
        window = _any_window(shape, crop, settings.scale, rng)
    return window


def _any_window(
    shape: tuple[int, int], crop: tuple[int, int], scales: tuple[float, float], rng: np.random.Generator
) -> Window:
    height, width = shape
    # Uniform in the logarithm: halving is as likely as doubling.
    scale = float(np.exp(rng.uniform(*np.log(scales))))
    # The part of the scaled image that the crop shows, so that only this part is resized.
    new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
    shown_h, shown_w = min(crop[0], new_h), min(crop[1], new_w)
    top, left = (int(rng.integers(0, n + 1)) for n in (new_h - shown_h, new_w - shown_w))
    y, x = (int(rng.integers(0, n + 1)) for n in (crop[0] - shown_h, crop[1] - shown_w))
    box = (
        left * width / new_w,
        top * height / new_h,
        (left + shown_w) * width / new_w,
        (top + shown_h) * height / new_h,
    )
    return Window(box, (shown_h, shown_w), (slice(y, y + shown_h), slice(x, x + shown_w)))


def _largest_share(labels: Labels, window: Window, ignore_index: int) -> float:
    left, top, right, bottom = window.box
    part = labels[int(top) : math.ceil(bottom), int(left) : math.ceil(right)]
    counts = np.unique(part[part != ignore_index], return_counts=True)[1]
    return float(counts.max() / counts.sum()) if len(counts) else 1.0


def cut(pixels: Pixels, labels: Labels, window: Window) -> tuple[Pixels, Labels]:
    """The window of image and labels at its size in the crop."""
    size = window.size[::-1]
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=window.box)
    label = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST, box=window.box)
    return np.asarray(image), np.asarray(label)


def enlarged(crop: tuple[int, int], angle: float) -> tuple[int, int]:
    """Height, width of what covers a crop both as it is and turned by an angle in degrees."""
    if angle == 0:
        return crop
    cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    height, width = crop
    turned = math.ceil(height * cos + width * sin), math.ceil(height * sin + width * cos)
    return max(height, turned[0]), max(width, turned[1])


def rotated(
    pixels: Pixels, labels: Labels, angle: float, crop: tuple[int, int], fill: Colour, ignore_index: int
) -> tuple[Pixels, Labels]:
    """Turn about the centre, counterclockwise in degrees, and take the middle [crop height, crop width]."""
    y, x = (labels.shape[0] - crop[0]) // 2, (labels.shape[1] - crop[1]) // 2
    middle = (slice(y, y + crop[0]), slice(x, x + crop[1]))
    image = Image.fromarray(pixels).rotate(angle, Image.Resampling.BILINEAR, fillcolor=fill)
    label = Image.fromarray(labels).rotate(angle, Image.Resampling.NEAREST, fillcolor=ignore_index)
    return np.asarray(image)[middle], np.asarray(label)[middle]


def shifted(
    pixels: Pixels,
    labels: Labels,
    settings: Augmentation,
    fill: Colour,
    ignore_index: int,
    rng: np.random.Generator,
) -> tuple[Pixels, Labels]:
    """Move pixels: all by the same (FRRN, section 4.2), and each by a smooth random field (U-Net, section 3.1)."""
    height, width = labels.shape
    move = rng.integers(-settings.translate, settings.translate + 1, 2).astype(np.float64)
    places = np.indices((height, width), np.float64) - move[:, None, None]
    if settings.elastic:
        # U-Net: random vectors on a coarse 3 by 3 grid, bicubic between them.
        grid = rng.normal(0, settings.elastic, (2, 3, 3)).astype(np.float32)
        for axis in (0, 1):
            field = Image.fromarray(grid[axis]).resize((width, height), Image.Resampling.BICUBIC)
            places[axis] += np.asarray(field)
    order = 1 if settings.elastic else 0  # whole pixels need no interpolation
    moved = [
        ndimage.map_coordinates(pixels[..., c], places, order=order, cval=fill[c], output=np.uint8) for c in range(3)
    ]
    return np.stack(moved, axis=-1), ndimage.map_coordinates(labels, places, order=0, cval=ignore_index)
