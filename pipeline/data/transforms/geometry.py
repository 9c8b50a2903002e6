"""Geometry of a training crop: scale, window, rotation, translation and elastic deformation."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipeline.data.transforms.config import Augmentation

ATTEMPTS = 10  # windows drawn at most until no class has too large a share

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int32]
Colour = tuple[int, int, int]


class Window(NamedTuple):
    """A part of an image and its place in a crop.

    Attributes:
        box: Left, top, right, bottom in the image, in fractional pixels.
        size: Height, width of the box in the crop.
        target: Rows and columns of the crop that the box fills.
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
    """Draw a window of random scale and place, up to `ATTEMPTS` times until no class exceeds `max_class_share`.

    Args:
        labels: Label map of the image, int32 [height, width].
        crop: Height, width of the crop.
        settings: Only `scale`, `class_aware` and `max_class_share` are used.
        ignore_index: Label of ignored pixels, which have no share.
        rng: The source of randomness.
    """

    def draw() -> Window:
        place = None
        if settings.class_aware and rng.random() < settings.class_aware:
            place = _place_of_a_class(labels, ignore_index, rng)
        return _random_window((labels.shape[0], labels.shape[1]), crop, settings.scale, place, rng)

    window = draw()
    for _ in range(ATTEMPTS - 1):
        if settings.max_class_share == 1 or _largest_share(labels, window, ignore_index) <= settings.max_class_share:
            break
        window = draw()
    return window


def _place_of_a_class(labels: Labels, ignore_index: int, rng: np.random.Generator) -> tuple[float, float] | None:
    """Draw a class of the label map and a pixel of it; return where its centre is, as shares of height and width.

    None if all pixels are ignored.
    """
    classes = np.unique(labels)
    classes = classes[classes != ignore_index]
    if not len(classes):
        return None
    pixels = np.flatnonzero(labels == rng.choice(classes))
    row, column = divmod(int(rng.choice(pixels)), labels.shape[1])
    return (row + 0.5) / labels.shape[0], (column + 0.5) / labels.shape[1]


def _random_window(
    shape: tuple[int, int],
    crop: tuple[int, int],
    scales: tuple[float, float],
    place: tuple[float, float] | None,
    rng: np.random.Generator,
) -> Window:
    """Draw a window, from all windows or from those that hold a place, given as shares of height and width."""
    height, width = shape
    # The scale is uniform in its logarithm, so that halving is as likely as doubling.
    scale = float(np.exp(rng.uniform(*np.log(scales))))
    new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
    # Only the visible part of the scaled image will be resized.
    visible_h, visible_w = min(crop[0], new_h), min(crop[1], new_w)
    top = _start(new_h, visible_h, None if place is None else place[0], rng)
    left = _start(new_w, visible_w, None if place is None else place[1], rng)
    y, x = (int(rng.integers(0, n + 1)) for n in (crop[0] - visible_h, crop[1] - visible_w))
    box = (
        left * width / new_w,
        top * height / new_h,
        (left + visible_w) * width / new_w,
        (top + visible_h) * height / new_h,
    )
    return Window(box, (visible_h, visible_w), (slice(y, y + visible_h), slice(x, x + visible_w)))


def _start(length: int, visible: int, place: float | None, rng: np.random.Generator) -> int:
    """Draw where `visible` pixels of a side begin, so that they hold a place, given as a share of the side."""
    first, last = 0, length - visible
    if place is not None:
        pixel = int(place * length)
        first, last = max(first, pixel - visible + 1), min(last, pixel)
    return int(rng.integers(first, last + 1))


def _largest_share(labels: Labels, window: Window, ignore_index: int) -> float:
    left, top, right, bottom = window.box
    part = labels[int(top) : math.ceil(bottom), int(left) : math.ceil(right)]
    counts = np.unique(part[part != ignore_index], return_counts=True)[1]
    return float(counts.max() / counts.sum()) if len(counts) else 1.0


def cut(pixels: Pixels, labels: Labels, window: Window) -> tuple[Pixels, Labels]:
    """Cut the window out of image and labels, at its size in the crop."""
    size = window.size[::-1]
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=window.box)
    label = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST, box=window.box)
    return np.asarray(image), np.asarray(label)


def enlarged(crop: tuple[int, int], angle: float) -> tuple[int, int]:
    """Return the height, width of an area that covers a crop both upright and rotated by an angle in degrees."""
    if angle == 0:
        return crop
    cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    height, width = crop
    rotated_height, rotated_width = math.ceil(height * cos + width * sin), math.ceil(height * sin + width * cos)
    return max(height, rotated_height), max(width, rotated_width)


def rotated(
    pixels: Pixels, labels: Labels, angle: float, crop: tuple[int, int], fill: Colour, ignore_index: int
) -> tuple[Pixels, Labels]:
    """Rotate counterclockwise about the centre, in degrees, and cut out the central [crop height, crop width]."""
    y, x = (labels.shape[0] - crop[0]) // 2, (labels.shape[1] - crop[1]) // 2
    centre = (slice(y, y + crop[0]), slice(x, x + crop[1]))
    image = Image.fromarray(pixels).rotate(angle, Image.Resampling.BILINEAR, fillcolor=fill)
    label = Image.fromarray(labels).rotate(angle, Image.Resampling.NEAREST, fillcolor=ignore_index)
    return np.asarray(image)[centre], np.asarray(label)[centre]


def shifted(
    pixels: Pixels,
    labels: Labels,
    settings: Augmentation,
    fill: Colour,
    ignore_index: int,
    rng: np.random.Generator,
) -> tuple[Pixels, Labels]:
    """Translate all pixels by the same vector (FRRN, section 4.2) and deform them elastically (U-Net, section 3.1)."""
    height, width = labels.shape
    translation = rng.integers(-settings.translate, settings.translate + 1, 2).astype(np.float64)
    sources = np.indices((height, width), np.float64) - translation[:, None, None]
    if settings.elastic:
        # Random vectors on a coarse 3 x 3 grid, with bicubic interpolation between them (U-Net, section 3.1).
        grid = rng.normal(0, settings.elastic, (2, 3, 3)).astype(np.float32)
        for axis in (0, 1):
            field = Image.fromarray(grid[axis]).resize((width, height), Image.Resampling.BICUBIC)
            sources[axis] += np.asarray(field)
    order = 1 if settings.elastic else 0  # whole pixels need no interpolation
    moved = [
        ndimage.map_coordinates(pixels[..., c], sources, order=order, cval=fill[c], output=np.uint8) for c in range(3)
    ]
    return np.stack(moved, axis=-1), ndimage.map_coordinates(labels, sources, order=0, cval=ignore_index)
