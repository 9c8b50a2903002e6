r"""PSPNet: pyramid pooling.

Zhao, Shi, Qi, Wang & Jia, "Pyramid Scene Parsing Network", CVPR 2017.

    ResNet /8 --+-- average over 1x1 bins -> 1x1, 512, BN, ReLU -> bilinear --\
                |-- average over 2x2 bins -> ...                             |
                |-- average over 3x3 bins -> ...                  concatenate -> 3x3, 512, BN, ReLU, dropout 0.1
                |-- average over 6x6 bins -> ...                             |     -> 1x1 scores -> x8 bilinear
                +------------------------------------------------------------/

What it introduced: averages over grids of four sizes add the context of the whole scene and of its parts to the local
features; an auxiliary loss of weight 0.4 on layer3. The ResNet has a stem of three 3x3 convolutions (`deep_stem`),
layer3 with rate 2 and layer4 with rate 4.

Parameters at 21 classes: 46.72 M for ResNet-50 without auxiliary head, 49.08 M with it. With a 7x7 stem
(`deep_stem=false`, which torchvision's published weights need): 46.59 and 48.96 M. Output stride 8.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.backbones.resnet import Depth, ResNet
from pipeline.models.config import ModelConfig
from pipeline.models.layers import SegmentationOutput, auxiliary_score, conv_bn_relu, kaiming, scaled

BINS = (1, 2, 3, 6)


class PSPNetConfig(ModelConfig):
    """Configuration of PSPNet."""

    paper: ClassVar[str] = "Zhao et al., CVPR 2017"
    # The 1x1 bin leaves one value per channel and image for batch normalisation.
    min_training_batch: ClassVar[int] = 2

    depth: Depth = Field(default=50, description="number of layers of the ResNet: 18, 34, 50, 101 or 152")
    deep_stem: bool = Field(default=True, description="begin with three 3x3 convolutions in place of one 7x7")
    auxiliary_head: bool = Field(default=True, description="score layer3 during training, for an auxiliary loss")

    def build(self, num_classes: int) -> "PSPNet":
        """Return a PSPNet with fresh weights."""
        return PSPNet(self, num_classes=num_classes)


class PSPNet(nn.Module):
    """Pyramid scene parsing network on a ResNet."""

    output_stride = 8

    def __init__(self, config: PSPNetConfig, *, num_classes: int):
        super().__init__()
        self.backbone = ResNet(depth=config.depth, output_stride=8, width=config.width, deep_stem=config.deep_stem)
        inputs = self.backbone.channels4
        self.pyramid = PyramidPooling(inputs)
        channels = scaled(512, config.width)
        self.classifier = nn.Sequential(
            *conv_bn_relu(2 * inputs, channels, 3), nn.Dropout(0.1), nn.Conv2d(channels, num_classes, 1)
        )
        kaiming((*self.pyramid.modules(), *self.classifier))
        self.aux_classifier: nn.Sequential | None = None
        if config.auxiliary_head:
            self.aux_classifier = auxiliary_score(self.backbone.channels3, num_classes)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1.

        Raises:
            BatchTooSmallError: In train mode, the batch is one image; see `BatchNorm2d`.
        """
        features = self.backbone(images)
        logits = self.classifier(self.pyramid(features.layer4))
        if self.training and self.aux_classifier is not None:
            return SegmentationOutput(logits, (self.aux_classifier(features.layer3),))
        return SegmentationOutput(logits)


class PyramidPooling(nn.Module):
    """The map itself, concatenated with its means over grids of 1, 4, 9 and 36 bins.

    A 1x1 convolution reduces the means over each grid to a quarter of the channels.

    Args:
        channels: Channels of the input; the output has twice as many.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), *conv_bn_relu(channels, channels // len(BINS), 1))
            for bins in BINS
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features [batch, 2 · channels, h, w] of a map [batch, channels, h, w]."""
        size = x.shape[-2:]
        pooled = [F.interpolate(b(x), size=size, mode="bilinear", align_corners=True) for b in self.branches]
        return torch.cat([x, *pooled], dim=1)
