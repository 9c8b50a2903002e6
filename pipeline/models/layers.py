"""Layers and functions that several architectures share."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SegmentationOutput(NamedTuple):
    """The output of every segmentation network.

    Attributes:
        logits: Unnormalised scores [batch, classes, h, w] at the network's output stride.
        auxiliary: Further logits of the same shape, each with its own loss; empty in eval mode.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...] = ()


def scaled(channels: int, width: float) -> int:
    """Return channels · width, rounded to a multiple of 8 and at least 8; at width 1.0 the channels are unchanged."""
    return channels if width == 1.0 else max(8, round(channels * width / 8) * 8)


class BatchTooSmallError(ValueError):
    """A training batch with one value per channel, of which batch normalisation has no variance."""


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose error for a too small batch says what to do."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map.

        Raises:
            BatchTooSmallError: In train mode, the batch is a single map of 1x1.
        """
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            raise BatchTooSmallError(
                "batch normalisation has one value per channel here: the batch is a single image and this "
                "feature map is 1x1; train with larger batches or larger crops"
            )
        return super().forward(x)


class ResidualBlock(nn.Module):
    """The sum of a shortcut and a residual branch, in a form in which either can be left out."""

    @abstractmethod
    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shortcut, which may be `x` itself, and the residual, a new tensor of the same shape."""

    def after_sum(self, x: Tensor) -> Tensor:
        """Return what follows the sum, such as a ReLU; it may work in place."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a map [batch, channels, h, w]."""
        shortcut, residual = self.branches(x)
        residual += shortcut  # in place, which saves the memory of one map
        return self.after_sum(residual)


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, rate: int = 1, bias: bool = False
) -> list[nn.Module]:
    """Return a convolution that keeps the size at stride 1, batch normalisation and ReLU."""
    padding = rate * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, dilation=rate, bias=bias)
    return [conv, BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def auxiliary_score(inputs: int, num_classes: int) -> nn.Sequential:
    """Return PSPNet's auxiliary head (section 3.3), which scores an inner map; it is torchvision's `FCNHead`."""
    middle = inputs // 4
    return nn.Sequential(*conv_bn_relu(inputs, middle, 3), nn.Dropout(0.1), nn.Conv2d(middle, num_classes, 1))


def kaiming(modules: Iterable[nn.Module], *, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """Initialise weights to a normal distribution of variance 2 / fan and biases to zero (He et al., ICCV 2015)."""
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Set the weights and the bias of a convolution to zero and return it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def crop_to(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the upper left corner of a map [batch, channels, h, w], with (height, width) `size`."""
    return tensor[..., : size[0], : size[1]]


def pad_to_multiple(images: Tensor, multiple: int, *, at_least: int = 1) -> Tensor:
    """Return images padded on the right and at the bottom by replicating the border.

    Args:
        images: Images [batch, channels, height, width] of any size from 1x1.
        multiple: Number that the new height and width are multiples of.
        at_least: Lower bound of the new height and width before they are rounded up to the multiple.
    """
    missing = [-max(n, at_least) % multiple + max(n, at_least) - n for n in images.shape[-2:]]
    return F.pad(images, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else images


def mirror_pad(images: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Return images [batch, channels, height, width] padded by reflection at their border pixels.

    Unlike in `F.pad`, the padding can exceed the size of the image: the reflections then repeat.
    """
    rows = _mirrored(images.shape[-2], top, bottom, images.device)
    columns = _mirrored(images.shape[-1], left, right, images.device)
    return images.index_select(-2, rows).index_select(-1, columns)


def _mirrored(n: int, before: int, after: int, device: torch.device) -> Tensor:
    """Return the index of the source pixel of each pixel along a padded axis of n pixels."""
    if n == 1:
        return torch.zeros(before + 1 + after, dtype=torch.long, device=device)
    period = 2 * (n - 1)  # for n = 4: 0 1 2 3 2 1 | 0 1 …
    position = torch.arange(-before, n + after, device=device) % period
    return torch.minimum(position, period - position)
