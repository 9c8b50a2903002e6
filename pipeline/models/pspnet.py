"""PSPNet: pyramid pooling.

Zhao, Shi, Qi, Wang & Jia, "Pyramid Scene Parsing Network", CVPR 2017.

    ResNet /8 --+-- average over 1x1 bins -> 1x1, 512, BN, ReLU -> bilinear --\\
                |-- average over 2x2 bins -> ...                             |
                |-- average over 3x3 bins -> ...                  concatenate -> 3x3, 512, BN, ReLU, dropout 0.1
                |-- average over 6x6 bins -> ...                             |     -> 1x1 scores -> x8 bilinear
                +------------------------------------------------------------/

What it introduced: context of the whole scene and of its parts, from averages over grids of four sizes, beside the
local features; an auxiliary loss of weight 0.4 on layer3. The ResNet has a stem of three 3x3 convolutions
(`deep_stem`), layer3 with rate 2 and layer4 with rate 4.

Parameters at 21 classes: 46.72 M for ResNet-50 without auxiliary head, 49.08 M with; with a 7x7 stem
(`deep_stem=false`, the one that torchvision's published weights fit) 46.59 and 48.96 M. Output stride 8.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.backbones.resnet import Depth, ResNet
from pipeline.models.config import ModelConfig
from pipeline.models.layers import SegmentationOutput, auxiliary_score, conv_bn_relu, kaiming, scaled

BINS = (1, 2, 3, 6)


class PSPNetConfig(ModelConfig):
    """`depth`: of the ResNet. `deep_stem`: three 3x3 convolutions in place of a 7x7. `auxiliary_head`: a second loss on
    layer3 while training."""

    paper: ClassVar[str] = "Zhao et al., CVPR 2017"
    # Batch normalisation of the 1x1 bin needs a second image.
    min_training_batch: ClassVar[int] = 2

    depth: Depth = 50
    deep_stem: bool = True
    auxiliary_head: bool = True

    def build(self, num_classes: int) -> "PSPNet":
        return PSPNet(num_classes=num_classes, **self.model_dump())


class PSPNet(nn.Module):
    """PSPNet; see the module's text.

    Args:
        num_classes: channels of the score maps.
        depth: of the ResNet: 18, 34, 50, 101 or 152.
        deep_stem: three 3x3 convolutions in place of a 7x7.
        auxiliary_head: also score layer3 in train mode.
        width: multiplies every layer's channels.
    """

    output_stride = 8

    def __init__(
        self,
        *,
        num_classes: int,
        depth: Depth = 50,
        deep_stem: bool = True,
        auxiliary_head: bool = True,
        width: float = 1.0,
    ):
        super().__init__()
        self.backbone = ResNet(depth=depth, output_stride=8, width=width, deep_stem=deep_stem)
        inputs = self.backbone.channels4
        self.pyramid = PyramidPooling(inputs)
        channels = scaled(512, width)
        self.classifier = nn.Sequential(
            *conv_bn_relu(2 * inputs, channels, 3), nn.Dropout(0.1), nn.Conv2d(channels, num_classes, 1)
        )
        kaiming((*self.pyramid.modules(), *self.classifier))
        self.aux_classifier: nn.Sequential | None = None
        if auxiliary_head:
            self.aux_classifier = auxiliary_score(self.backbone.channels3, num_classes)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Scores of normalised images [batch, 3, height, width], any size from 1x1.

        Raises:
            BatchTooSmallError: a batch of one image in train mode; see `BatchNorm2d`.
        """
        features = self.backbone(images)
        logits = self.classifier(self.pyramid(features.layer4))
        if self.training and self.aux_classifier is not None:
            return SegmentationOutput(logits, (self.aux_classifier(features.layer3),))
        return SegmentationOutput(logits)


class PyramidPooling(nn.Module):
    """Means over grids of 1, 4, 9 and 36 bins, each through a 1x1 convolution to a quarter of the channels, beside the
    map itself: [batch, c, h, w] becomes [batch, 2 c, h, w]."""

    def __init__(self, channels: int):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), *conv_bn_relu(channels, channels // len(BINS), 1))
            for bins in BINS
        )

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        pooled = [F.interpolate(b(x), size=size, mode="bilinear", align_corners=True) for b in self.branches]
        return torch.cat([x, *pooled], dim=1)
