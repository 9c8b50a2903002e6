"""Augmentation of an image and its labels together.

Pillow, numpy and scipy, not torchvision: these run in CPU tasks, where importing torch and torchvision would cost each
process seconds and 600 MB (docs/decisions.md). All chance comes from the generator that is passed in.
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
    """Draw one crop of an image. CutMix and copy-paste, which need two, are functions of their own.

    Args:
        pixels: uint8 [height, width, 3].
        labels: int32 [height, width].
        settings: see `Augmentation`.
        ignore_index: label of pixels from outside of the image.
        fill: their colour; the mean colour becomes 0 for the network.
        rng: the only source of randomness.

    Returns:
        uint8 [crop height, crop width, 3] and int32 [crop height, crop width].
    """
    if settings.focus != "image":
        pixels, labels = focused(pixels, labels, settings=settings, ignore_index=ignore_index, fill=fill, rng=rng)
    angle = float(rng.uniform(-settings.rotate, settings.rotate))
    crop = enlarged(settings.crop, angle)
    window = draw_window(labels, crop=crop, settings=settings, ignore_index=ignore_index, rng=rng)
    shown, label = cut(pixels, labels, window)
    shown = change_colours(shown, settings, rng)

    out_pixels = np.empty((*crop, 3), np.uint8)
    out_pixels[:] = fill
    out_labels = np.full(crop, ignore_index, np.int32)
    out_pixels[window.target], out_labels[window.target] = shown, label
    if angle:
        out_pixels, out_labels = rotated(out_pixels, out_labels, angle, settings.crop, fill, ignore_index)
    if settings.elastic or settings.translate:
        out_pixels, out_labels = shifted(out_pixels, out_labels, settings, fill, ignore_index, rng)
    if rng.random() < settings.flip:
        out_pixels, out_labels = out_pixels[:, ::-1], out_labels[:, ::-1]
    return np.ascontiguousarray(out_pixels), np.ascontiguousarray(out_labels)
