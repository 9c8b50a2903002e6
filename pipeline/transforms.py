"""Augmentation of an image and its labels together: random scale, crop, flip.

Pillow and numpy, not torchvision: these run in Ray Data's CPU tasks, where importing torch and torchvision
would cost each process seconds and 600 MB (docs/decisions.md).
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Augmentation(BaseModel):
    """How a training crop is drawn from an image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crop: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        default=(321, 321),
        description="height, width of a training crop in pixels; smaller images are padded",
    )
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        default=(0.5, 2.0), description="range of the random scale"
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a left-right flip")

    @model_validator(mode="after")
    def _ordered(self) -> "Augmentation":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: {self.scale[0]} is above {self.scale[1]}")
        return self


def augment(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int32],
    *,
    settings: Augmentation,
    ignore_index: int,
    fill: tuple[int, int, int],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Draw one crop.

    Args:
        pixels: uint8 [height, width, 3].
        labels: int32 [height, width].
        settings: see `Augmentation`.
        ignore_index: label of padded pixels.
        fill: colour of padded pixels; the mean colour becomes 0 for the network.
        rng: the only source of randomness.

    Returns:
        uint8 [crop height, crop width, 3] and int32 [crop height, crop width].
    """
    height, width = labels.shape
    crop_h, crop_w = settings.crop
    # Uniform in the logarithm: halving is as likely as doubling.
    scale = float(np.exp(rng.uniform(*np.log(settings.scale))))
    # The window of the scaled image that the crop shows, so that only this window is resized.
    new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
    top = int(rng.integers(0, max(new_h - crop_h, 0) + 1))
    left = int(rng.integers(0, max(new_w - crop_w, 0) + 1))
    shown_h, shown_w = min(crop_h, new_h), min(crop_w, new_w)
    box = (
        left * width / new_w,
        top * height / new_h,
        (left + shown_w) * width / new_w,
        (top + shown_h) * height / new_h,
    )
    image = Image.fromarray(pixels).resize((shown_w, shown_h), Image.Resampling.BILINEAR, box=box)
    label = Image.fromarray(labels).resize((shown_w, shown_h), Image.Resampling.NEAREST, box=box)

    out_pixels = np.empty((crop_h, crop_w, 3), np.uint8)
    out_pixels[:] = fill
    out_labels = np.full((crop_h, crop_w), ignore_index, np.int32)
    y = int(rng.integers(0, crop_h - shown_h + 1))
    x = int(rng.integers(0, crop_w - shown_w + 1))
    out_pixels[y : y + shown_h, x : x + shown_w] = np.asarray(image)
    out_labels[y : y + shown_h, x : x + shown_w] = np.asarray(label)
    if rng.random() < settings.flip:
        out_pixels, out_labels = out_pixels[:, ::-1], out_labels[:, ::-1]
    return np.ascontiguousarray(out_pixels), np.ascontiguousarray(out_labels)
