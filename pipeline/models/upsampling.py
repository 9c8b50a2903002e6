"""The upsampling operations of all networks.

    fixed      bilinear interpolation             `upsample`             DeepLab
               nearest unpooling                  `nearest_unpooling`    FRRN's residual stream
               bed-of-nails unpooling             `bed_of_nails_unpooling`
    by switch  max unpooling                      `max_unpooling`        DeconvNet, SegNet
    learned    transposed convolution             `nn.ConvTranspose2d`   DeconvNet, U-Net
               … that starts as interpolation     `bilinear_deconvolution`   FCN

A convolution multiplies the flattened map by a matrix C; a transposed convolution multiplies by its transpose Cᵀ. Each
input value adds a copy of the kernel, scaled by that value, to the output; where copies overlap they are *summed*.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.layers import crop_to


def upsample(logits: Tensor, size: tuple[int, int], *, stride: int) -> Tensor:
    """Return score maps upsampled bilinearly to the size of the image.

    The factor is always the output stride, as in training, and the part beyond the image is cropped. Stretching the
    map to the size of the image instead would shift the scores of images whose size the stride does not divide.

    Args:
        logits: Scores [batch, classes, ceil(height / stride), ceil(width / stride)].
        size: (height, width) of the image.
        stride: Output stride of the network.

    Returns:
        Scores [batch, classes, height, width] in the dtype of the logits.
    """
    if stride == 1:
        return crop_to(logits, size)
    full = F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False)
    return crop_to(full, size)


def nearest_unpooling(x: Tensor, factor: int) -> Tensor:
    """Return a map in which each value becomes a block of factor x factor copies."""
    return F.interpolate(x, scale_factor=factor, mode="nearest")


def bed_of_nails_unpooling(x: Tensor, factor: int) -> Tensor:
    """Return a map in which each value is the upper left corner of a factor x factor block of zeros."""
    batch, channels, height, width = x.shape
    full = x.new_zeros(batch, channels, height * factor, width * factor)
    full[..., ::factor, ::factor] = x
    return full


def max_pooling_with_switches(x: Tensor) -> tuple[Tensor, Tensor]:
    """Apply 2x2 max-pooling with sizes rounded up, and find the position in `x` of each maximum (its switch).

    Returns:
        The maxima [batch, channels, ceil(h / 2), ceil(w / 2)] and their flat positions, an int64 tensor of the same
        shape that takes twice the memory of the float32 maxima.
    """
    return F.max_pool2d(x, 2, stride=2, ceil_mode=True, return_indices=True)


def max_unpooling(x: Tensor, switches: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a map with each value at the position of the maximum of its window and zeros elsewhere.

    On CUDA, PyTorch's implementation is not deterministic.

    Args:
        x: Map [batch, channels, h, w].
        switches: Positions of the maxima in the corresponding pooling layer, of the same shape.
        size: (height, width) before that pooling layer; a pooled side of 23 can come from 45 or 46.
    """
    return F.max_unpool2d(x, switches, [2, 2], stride=[2, 2], output_size=size)


def bilinear_kernel(factor: int) -> Tensor:
    """Return the 2·factor x 2·factor kernel with which a transposed convolution of stride `factor` interpolates.

    FCN (Long et al. 2015, section 3.3): w(x, y) = (1 - |x - c| / f)(1 - |y - c| / f) with c = f - 1/2.
    """
    centre = factor - 0.5
    line = 1 - (torch.arange(2 * factor) - centre).abs() / factor
    return line[:, None] * line[None, :]


def bilinear_deconvolution(channels: int, factor: int, *, padding: int | None = None) -> nn.ConvTranspose2d:
    """Return a depthwise transposed convolution by `factor`, initialised to bilinear interpolation.

    It has a kernel of 2·factor, stride `factor` and by default padding factor / 2, so a side n becomes factor · n. With
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
