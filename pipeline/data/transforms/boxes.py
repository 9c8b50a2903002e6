"""Random changes of an image with boxes: mirror image, scale and place, colours. Boxes and proposals move along."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.images import resize
from pipeline.data.transforms.box_config import BoxAugmentation


class BoxedImage(NamedTuple):
    """An image with boxes in its pixels; right and bottom are exclusive.

    Attributes:
        pixels: uint8 [height, width, 3].
        boxes: Boxes of objects, float32 [n, 4].
        labels: Their classes, int64 [n].
        proposals: Proposals, float32 [m, 4].
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    proposals: NDArray[np.float32]


def augment_boxes(
    image: BoxedImage, *, settings: BoxAugmentation, fill: tuple[int, int, int], rng: np.random.Generator
) -> BoxedImage:
    """Draw a random change of an image.

    Args:
        image: The image; it is not modified.
        settings: How it is changed.
        fill: Colour of what lies outside of the image.
        rng: The only source of randomness.
    """
    image = reduced(image, settings.longest_side)
    if settings.jitter:
        image = _jittered(image, settings, fill, rng)
    pixels = _changed_colours(image.pixels, settings, rng)
    if rng.random() < settings.flip:
        width = pixels.shape[1]
        pixels = np.ascontiguousarray(pixels[:, ::-1])
        image = image._replace(boxes=_mirrored(image.boxes, width), proposals=_mirrored(image.proposals, width))
    return image._replace(pixels=pixels)


def reduced(image: BoxedImage, longest_side: int) -> BoxedImage:
    """Return the image with a long side of at most `longest_side` pixels."""
    height, width = image.pixels.shape[:2]
    if max(height, width) <= longest_side:
        return image
    size = tuple(max(1, round(side * longest_side / max(height, width))) for side in (height, width))
    factors = np.array([size[1] / width, size[0] / height] * 2, np.float32)
    pixels = resize(image.pixels, (size[0], size[1]))
    return image._replace(pixels=pixels, boxes=image.boxes * factors, proposals=image.proposals * factors)


def _mirrored(boxes: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def _jittered(
    image: BoxedImage, settings: BoxAugmentation, fill: tuple[int, int, int], rng: np.random.Generator
) -> BoxedImage:
    """Move each border of the picture by a random distance, and drop the boxes that are hardly in it any more."""
    height, width = image.pixels.shape[:2]
    sides = np.array([width, height, width, height])
    shifts = np.round(rng.uniform(-settings.jitter, settings.jitter, 4) * sides).astype(int)
    left, top, right, bottom = (np.array([0, 0, width, height]) + shifts).tolist()
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    pixels = np.empty((bottom - top, right - left, 3), np.uint8)
    pixels[:] = fill
    inside = image.pixels[max(top, 0) : bottom, max(left, 0) : right]
    y, x = max(-top, 0), max(-left, 0)
    pixels[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    boxes, shares = _moved(image.boxes, (left, top, right, bottom))
    visible = shares >= settings.min_visible
    proposals, shares = _moved(image.proposals, (left, top, right, bottom))
    return BoxedImage(pixels, boxes[visible], image.labels[visible], proposals[shares > 0])


def _moved(
    boxes: NDArray[np.float32], window: tuple[int, int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return boxes as parts of a window of the image, and the share of each one's area that is in it."""
    left, top, right, bottom = window
    limits = np.array([right - left, bottom - top] * 2, np.float32)
    moved = np.clip(boxes - np.array([left, top, left, top], np.float32), 0, limits)
    areas, before = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (moved, boxes))
    return moved, np.divide(areas, before, out=np.zeros_like(areas), where=before > 0)


def _changed_colours(
    pixels: NDArray[np.uint8], settings: BoxAugmentation, rng: np.random.Generator
) -> NDArray[np.uint8]:
    if settings.exposure == settings.saturation == 1:
        return pixels
    hue, saturation, value = Image.fromarray(pixels).convert("HSV").split()
    channels = [hue]
    for channel, strength in ((saturation, settings.saturation), (value, settings.exposure)):
        # Uniform in its logarithm, so that half is as likely as double.
        factor = float(np.exp(rng.uniform(-np.log(strength), np.log(strength))))
        channels.append(channel.point([min(255, round(level * factor)) for level in range(256)]))
    return np.asarray(Image.merge("HSV", channels).convert("RGB"))
