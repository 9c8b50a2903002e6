"""FusionNet: U-Net with residual blocks and long skips by summation.

Quan, Hildebrand & Jeong, "FusionNet: A Deep Fully Residual Convolutional Neural Network for Image Segmentation in
Connectomics", 2016.

    a level:   conv 3x3 -> (+) residual block of three 3x3 convolutions -> conv 3x3, each with BN and ReLU
    encoder:   levels of 64, 128, 256, 512, a 2x2 max-pool after each; bridge of 1024
    decoder:   transposed convolution, stride 2 -> (+) the encoder's map of that size -> level

What it introduced: summation in place of U-Net's concatenation, so short skips (in the blocks) and long ones (across
the U) together make the whole network residual, and the decoder needs half of U-Net's inputs.

Parameters: 78.52 M at 21 classes. Output stride 1. Images are continued to a multiple of 16.

Deviation: the ReLU of a residual block's last convolution comes after the sum.
"""

from typing import ClassVar

from torch import Tensor, nn

from pipeline.models.config import ModelConfig
from pipeline.models.layers import (
    BatchNorm2d,
    SegmentationOutput,
    conv_bn_relu,
    crop_to,
    kaiming,
    pad_to_multiple,
    scaled,
)

CHANNELS = (64, 128, 256, 512, 1024)


class FusionNetConfig(ModelConfig):
    """FusionNet has no options but its width."""

    paper: ClassVar[str] = "Quan, Hildebrand & Jeong, 2016"

    def build(self, num_classes: int) -> "FusionNet":
        return FusionNet(num_classes=num_classes, width=self.width)


class FusionNet(nn.Module):
    """FusionNet; see the module's text.

    Args:
        num_classes: channels of the score maps.
        width: multiplies every layer's channels.
    """

    output_stride = 1

    def __init__(self, *, num_classes: int, width: float = 1.0):
        super().__init__()
        channels = [scaled(n, width) for n in CHANNELS]
        self.encoder = nn.ModuleList(
            level(inputs, outputs) for inputs, outputs in zip([3, *channels], channels, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        deep, shallow = channels[:0:-1], channels[-2::-1]
        self.up = nn.ModuleList(_up(inputs, outputs) for inputs, outputs in zip(deep, shallow, strict=True))
        self.decoder = nn.ModuleList(level(n, n) for n in shallow)
        self.score = nn.Conv2d(channels[0], num_classes, 1)
        kaiming(self.modules())

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Scores of normalised images [batch, 3, height, width], any size from 1x1."""
        x, skips = pad_to_multiple(images, 16), []
        for i, stage in enumerate(self.encoder):
            x = stage(self.pool(x) if i else x)
            skips.append(x)
        for up, stage, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = stage(up(x) + skip)
        return SegmentationOutput(crop_to(self.score(x), (images.shape[-2], images.shape[-1])))


class Residual(nn.Module):
    """Three 3x3 convolutions around an identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn_relu(channels, channels, 3),
            *conv_bn_relu(channels, channels, 3),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            BatchNorm2d(channels),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + x)


def level(inputs: int, outputs: int) -> nn.Sequential:
    """Convolution, residual block, convolution."""
    return nn.Sequential(*conv_bn_relu(inputs, outputs, 3), Residual(outputs), *conv_bn_relu(outputs, outputs, 3))


def _up(inputs: int, outputs: int) -> nn.Sequential:
    deconv = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False)
    return nn.Sequential(deconv, BatchNorm2d(outputs), nn.ReLU(inplace=True))
