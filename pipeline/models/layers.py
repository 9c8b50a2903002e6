"""Layers and helpers that several architectures share. torch only."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SegmentationOutput(NamedTuple):
    """What every segmentation network returns.

    Attributes:
        logits: [batch, classes, h, w], unnormalised scores at the network's output stride.
        auxiliary: logits of auxiliary heads, each [batch, classes, h', w']; empty in eval mode.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...] = ()


def upsample(logits: Tensor, size: tuple[int, int], *, stride: int) -> Tensor:
    """Score maps to the size of the image, bilinearly.

    The factor is the output stride whatever the image's size, as it was in training, and what reaches beyond
    the image is cropped: stretching the map to the image would shift masks of sizes that the stride does not
    divide.

    Args:
        logits: [batch, classes, ceil(height / stride), ceil(width / stride)].
        size: (height, width) of the image.
        stride: the network's output stride.

    Returns:
        [batch, classes, height, width], in the dtype of the logits.
    """
    if stride == 1:
        return crop_to(logits, size)
    full = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    return crop_to(full, size)


def scaled(channels: int, width: float) -> int:
    """A layer's channels under a width multiplier, a multiple of 8 and at least 8; unchanged at 1.0."""
    return channels if width == 1.0 else max(8, round(channels * width / 8) * 8)


def bilinear_kernel(factor: int) -> Tensor:
    """The 2·factor x 2·factor kernel that makes a transposed convolution of stride `factor` interpolate.

    FCN (Long et al. 2015, section 3.3): w(x, y) = (1 - |x - c| / f)(1 - |y - c| / f) with c = f - 1/2.
    """
    centre = factor - 0.5
    line = 1 - (torch.arange(2 * factor) - centre).abs() / factor
    return line[:, None] * line[None, :]


def bilinear_deconvolution(channels: int, factor: int) -> nn.ConvTranspose2d:
    """A learnable upsampling by `factor` that starts as bilinear interpolation, a channel at a time.

    Kernel 2·factor, stride `factor`, padding factor / 2: a map of side n becomes exactly factor · n.
    """
    layer = nn.ConvTranspose2d(
        channels, channels, 2 * factor, stride=factor, padding=factor // 2, groups=channels, bias=False
    )
    with torch.no_grad():
        layer.weight.copy_(bilinear_kernel(factor).expand_as(layer.weight))
    return layer


def crop_to(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """The upper left [batch, channels, height, width] corner of a map."""
    return tensor[..., : size[0], : size[1]]
