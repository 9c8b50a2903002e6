"""FusionNet: U-Net with residual blocks and summed long skips.

Quan, Hildebrand & Jeong, "FusionNet: A Deep Fully Residual Convolutional Neural Network for Image Segmentation in
Connectomics", 2016.

    level:     conv 3x3 -> (+) residual block of three 3x3 convolutions -> conv 3x3, each with BN and ReLU
    encoder:   levels of 64, 128, 256 and 512 channels, each followed by a 2x2 max-pool; a bridge level of 1024
    decoder:   transposed convolution, stride 2 -> (+) the encoder's map of that size -> level

What it introduced: summation in place of U-Net's concatenation. The short skips (in the blocks) and the long skips
(from encoder to decoder) together make the whole network residual, and the decoder has half of U-Net's input channels.

Parameters: 78.52 M at 21 classes. Output stride 1. Images are padded to a multiple of 16 by replicating the border.

With `skips="concatenate"` the long skips are U-Net's, and with "none" there are none: then only the pooled maps carry
what the decoder knows. These variants are for comparison.

Deviation: the ReLU of a residual block's last convolution follows the sum.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.models.config import ModelConfig
from pipeline.models.layers import (
    BatchNorm2d,
    ResidualBlock,
    SegmentationOutput,
    conv_bn_relu,
    crop_to,
    kaiming,
    pad_to_multiple,
    scaled,
)

CHANNELS = (64, 128, 256, 512, 1024)  # channels of the levels


class FusionNetConfig(ModelConfig):
    """Configuration of FusionNet."""

    paper: ClassVar[str] = "Quan, Hildebrand & Jeong, 2016"

    skips: Literal["sum", "concatenate", "none"] = Field(
        default="sum", description='long skips: "sum", "concatenate" (as in U-Net) or "none"'
    )

    def build(self, num_classes: int) -> "FusionNet":
        """Return a FusionNet with fresh weights."""
        return FusionNet(self, num_classes=num_classes)


class FusionNet(nn.Module):
    """U-Net with residual blocks and summed long skips."""

    output_stride = 1

    def __init__(self, config: FusionNetConfig, *, num_classes: int):
        super().__init__()
        channels = [scaled(n, config.width) for n in CHANNELS]
        self.encoder = nn.ModuleList(
            level(inputs, outputs) for inputs, outputs in zip([3, *channels], channels, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        deep, shallow = channels[:0:-1], channels[-2::-1]
        self.up = nn.ModuleList(_up(inputs, outputs) for inputs, outputs in zip(deep, shallow, strict=True))
        self.skips = config.skips
        joined = 2 if config.skips == "concatenate" else 1
        self.decoder = nn.ModuleList(level(n * joined, n) for n in shallow)
        self.score = nn.Conv2d(channels[0], num_classes, 1)
        kaiming(self.modules())

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1."""
        x, skips = pad_to_multiple(images, 16), []
        for i, stage in enumerate(self.encoder):
            x = stage(self.pool(x) if i else x)
            skips.append(x)
        for up, stage, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = stage(self._joined(up(x), skip))
        return SegmentationOutput(crop_to(self.score(x), (images.shape[-2], images.shape[-1])))

    def _joined(self, x: Tensor, skip: Tensor) -> Tensor:
        match self.skips:
            case "sum":
                return x + skip
            case "concatenate":
                return torch.cat([x, skip], dim=1)
            case "none":
                return x


class Residual(ResidualBlock):
    """Three 3x3 convolutions with an identity shortcut.

    Args:
        channels: Channels of the input and of the output.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn_relu(channels, channels, 3),
            *conv_bn_relu(channels, channels, 3),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            BatchNorm2d(channels),
        )
        self.relu = nn.ReLU(inplace=True)

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a map [batch, channels, h, w] itself and the residual."""
        return x, self.body(x)

    def after_sum(self, x: Tensor) -> Tensor:
        """Return the ReLU of the sum."""
        return self.relu(x)


def level(inputs: int, outputs: int) -> nn.Sequential:
    """Return a level: a convolution, a residual block and a convolution."""
    return nn.Sequential(*conv_bn_relu(inputs, outputs, 3), Residual(outputs), *conv_bn_relu(outputs, outputs, 3))


def _up(inputs: int, outputs: int) -> nn.Sequential:
    deconv = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False)
    return nn.Sequential(deconv, BatchNorm2d(outputs), nn.ReLU(inplace=True))
