"""Random training crops of an image and its label map.

Augmentation uses Pillow, NumPy and SciPy instead of torchvision, because it runs in CPU tasks, where importing torch
and torchvision would cost each process seconds and 600 MB (docs/decisions.md).
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.data.transforms.colour import change_colours
from pipeline.data.transforms.config import Augmentation
from pipeline.data.transforms.geometry import cut, draw_window, enlarged, rotated, shifted
from pipeline.data.transforms.objects import focused


def augment(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int32],
    *,
    settings: Augmentation,
    ignore_index: int,
    fill: tuple[int, int, int],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Draw a random crop of an image. CutMix and copy-paste, which combine two crops, are in `mixing`.

    Args:
        pixels: Image, uint8 [height, width, 3].
        labels: Label map, int32 [height, width].
        settings: How the crop is drawn.
        ignore_index: Label of the padding.
        fill: Colour of the padding. The data set's mean colour becomes 0 at the network's input.
        rng: The only source of randomness.

    Returns:
        Pixels, uint8 [crop height, crop width, 3], and labels, int32 [crop height, crop width].
    """
    if settings.focus != "image":
        pixels, labels = focused(pixels, labels, settings=settings, ignore_index=ignore_index, fill=fill, rng=rng)
    angle = float(rng.uniform(-settings.rotate, settings.rotate))
    crop = enlarged(settings.crop, angle)
    window = draw_window(labels, crop=crop, settings=settings, ignore_index=ignore_index, rng=rng)
    window_pixels, window_labels = cut(pixels, labels, window)
    window_pixels = change_colours(window_pixels, settings, rng)

    out_pixels = np.empty((*crop, 3), np.uint8)
    out_pixels[:] = fill
    out_labels = np.full(crop, ignore_index, np.int32)
    out_pixels[window.target], out_labels[window.target] = window_pixels, window_labels
    if angle:
        out_pixels, out_labels = rotated(out_pixels, out_labels, angle, settings.crop, fill, ignore_index)
    if settings.elastic or settings.translate:
        out_pixels, out_labels = shifted(out_pixels, out_labels, settings, fill, ignore_index, rng)
    if rng.random() < settings.flip:
        out_pixels, out_labels = out_pixels[:, ::-1], out_labels[:, ::-1]
    return np.ascontiguousarray(out_pixels), np.ascontiguousarray(out_labels)
