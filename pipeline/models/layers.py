"""Layers and helpers that several architectures share. torch only."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SegmentationOutput(NamedTuple):
    """What every segmentation network returns.

    Attributes:
        logits: [batch, classes, h, w], unnormalised scores at the network's output stride.
        auxiliary: further logits of that shape that have a loss of their own; empty in eval mode.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...] = ()


def scaled(channels: int, width: float) -> int:
    """A layer's channels under a width multiplier, a multiple of 8 and at least 8; unchanged at 1.0."""
    return channels if width == 1.0 else max(8, round(channels * width / 8) * 8)


class BatchTooSmallError(ValueError):
    """A training batch that batch normalisation cannot take: one value per channel has no variance."""


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that says what to do where its statistics are undefined.

    Raises:
        BatchTooSmallError: a batch of one in train mode whose map has shrunk to 1x1.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            raise BatchTooSmallError(
                "batch normalisation has one value per channel here: the batch is a single image and this "
                "feature map is 1x1; train with larger batches or larger crops"
            )
        return super().forward(x)


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, rate: int = 1, bias: bool = False
) -> list[nn.Module]:
    """A convolution that keeps the size (at stride 1), batch normalisation and ReLU, as a list to unpack."""
    padding = rate * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, dilation=rate, bias=bias)
    return [conv, BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def auxiliary_score(inputs: int, num_classes: int) -> nn.Sequential:
    """PSPNet's auxiliary head (section 3.3), torchvision's `FCNHead`: scores from a map within the backbone."""
    middle = inputs // 4
    return nn.Sequential(*conv_bn_relu(inputs, middle, 3), nn.Dropout(0.1), nn.Conv2d(middle, num_classes, 1))


def kaiming(modules: Iterable[nn.Module], *, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """He et al., ICCV 2015: zero-mean normal weights of variance 2 / fan before each ReLU, zero biases."""
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The convolution with weights and bias set to zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def crop_to(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """The upper left [batch, channels, height, width] corner of a map."""
    return tensor[..., : size[0], : size[1]]


def pad_to_multiple(images: Tensor, multiple: int, *, at_least: int = 1) -> Tensor:
    """Images [batch, channels, height, width] continued at the right and bottom by their last pixels.

    Args:
        images: any size from 1x1.
        multiple: height and width become multiples of it.
        at_least: and not less than this.
    """
    missing = [-max(n, at_least) % multiple + max(n, at_least) - n for n in images.shape[-2:]]
    return F.pad(images, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else images


def mirror_pad(images: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Images continued by mirroring at their border pixels, as far as wanted: beyond the first mirror image the
    second begins, where `F.pad` refuses. [batch, channels, height, width] grows by the four amounts."""
    rows = _mirrored(images.shape[-2], top, bottom, images.device)
    columns = _mirrored(images.shape[-1], left, right, images.device)
    return images.index_select(-2, rows).index_select(-1, columns)


def _mirrored(n: int, before: int, after: int, device: torch.device) -> Tensor:
    if n == 1:
        return torch.zeros(before + 1 + after, dtype=torch.long, device=device)
    period = 2 * (n - 1)  # 0 1 2 3 2 1 | 0 1 …
    position = torch.arange(-before, n + after, device=device) % period
    return torch.minimum(position, period - position)
