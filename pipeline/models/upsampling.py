"""The ways in which networks make maps larger, as named building blocks.

    fixed      bilinear interpolation             `upsample`             DeepLab
               nearest unpooling                  `nearest_unpooling`    FRRN's residual stream
               bed-of-nails unpooling             `bed_of_nails_unpooling`
    by switch  max unpooling                      `max_unpooling`        DeconvNet, SegNet
    learned    transposed convolution             `nn.ConvTranspose2d`   DeconvNet, U-Net
               … that starts as interpolation     `bilinear_deconvolution`   FCN

A convolution is a matrix C on the flattened map; a transposed convolution multiplies by its transpose Cᵀ. Each
input value stamps the kernel, times itself, onto the output, and where stamps overlap they are *summed*.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.layers import crop_to


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


def nearest_unpooling(x: Tensor, factor: int) -> Tensor:
    """Each value becomes a block of factor x factor copies."""
    return F.interpolate(x, scale_factor=factor, mode="nearest")


def bed_of_nails_unpooling(x: Tensor, factor: int) -> Tensor:
    """Each value goes to the upper left corner of a block of factor x factor, the rest of which is zero."""
    batch, channels, height, width = x.shape
    full = x.new_zeros(batch, channels, height * factor, width * factor)
    full[..., ::factor, ::factor] = x
    return full


def max_pooling_with_switches(x: Tensor) -> tuple[Tensor, Tensor]:
    """2x2 max-pooling, sizes rounded up, and the place in `x` that each maximum came from (its switch).

    Returns:
        The maxima [batch, channels, ceil(h / 2), ceil(w / 2)] and their flat positions, int64 of that shape:
        eight bytes for every value, twice what the map itself takes.
    """
    return F.max_pool2d(x, 2, stride=2, ceil_mode=True, return_indices=True)


def max_unpooling(x: Tensor, switches: Tensor, size: tuple[int, int]) -> Tensor:
    """Each value goes back to where the maximum of its window was; the rest is zero.

    The size is told, because a pooled map of 23 comes from 45 or 46. On CUDA, PyTorch does not promise
    the same bits twice.

    Args:
        x, switches: [batch, channels, h, w], the latter of the mirrored pooling.
        size: (height, width) before that pooling.
    """
    return F.max_unpool2d(x, switches, [2, 2], stride=[2, 2], output_size=size)


def bilinear_kernel(factor: int) -> Tensor:
    """The 2·factor x 2·factor kernel that makes a transposed convolution of stride `factor` interpolate.

    FCN (Long et al. 2015, section 3.3): w(x, y) = (1 - |x - c| / f)(1 - |y - c| / f) with c = f - 1/2.
    """
    centre = factor - 0.5
    line = 1 - (torch.arange(2 * factor) - centre).abs() / factor
    return line[:, None] * line[None, :]


def bilinear_deconvolution(channels: int, factor: int, *, padding: int | None = None) -> nn.ConvTranspose2d:
    """A learnable upsampling by `factor` that starts as bilinear interpolation, a channel at a time.

    Kernel 2·factor, stride `factor`, padding factor / 2: a map of side n becomes exactly factor · n. With
    padding 0, as in Caffe's FCN, it becomes factor · (n + 1), to be cropped.
    """
    layer = nn.ConvTranspose2d(
        channels,
        channels,
        2 * factor,
        stride=factor,
        padding=factor // 2 if padding is None else padding,
        groups=channels,
        bias=False,
    )
    with torch.no_grad():
        layer.weight.copy_(bilinear_kernel(factor).expand_as(layer.weight))
    return layer
