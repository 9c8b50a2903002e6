"""Images at the sizes that detectors work at."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def image_size(image: Tensor) -> tuple[int, int]:
    """Return the (height, width) of an image [..., height, width]."""
    return image.shape[-2], image.shape[-1]


def with_short_side(size: tuple[int, int], short: int, longest: int | None = None) -> tuple[int, int]:
    """Return the (height, width) of an image whose short side becomes `short`, or its long side `longest` if less."""
    factor = short / min(size)
    if longest is not None:
        factor = min(factor, longest / max(size))
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return an image [3, height, width] at another (height, width), by bilinear interpolation."""
    if image_size(image) == size:
        return image
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]


def scaled_boxes(boxes: Tensor, size: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Return boxes [..., 4] in an image of (height, width) `size` after it has been resized to `to`."""
    x, y = to[1] / size[1], to[0] / size[0]
    return boxes * boxes.new_tensor([x, y, x, y])


def padded(images: Sequence[Tensor]) -> Tensor:
    """Return images [3, height, width] as a batch; zeros, the mean colour, fill up smaller ones.

    Features near a border that is filled up differ from those of the image alone, so batches of images of one size
    give the same results as single images. The batch is at least 64 pixels high and wide, because AlexNet needs 63.
    """
    height, width = (max(64, *(image.shape[axis] for image in images)) for axis in (1, 2))
    batch = images[0].new_zeros(len(images), 3, height, width)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 if its type is less precise: bfloat16 has no more than 256 coordinates."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def none(images: Sequence[Tensor]) -> list[Tensor]:
    """Return no boxes for each image."""
    return [torch.zeros(0, 4, device=image.device) for image in images]
