"""DeepLab v3: atrous spatial pyramid pooling (ASPP) on a ResNet.

Chen, Papandreou, Schroff & Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017.

    ResNet at output stride 8 or 16
      -> ASPP: 1x1 | 3x3 rate r | 3x3 rate 2r | 3x3 rate 3r | image pooling, 256 channels each, BN, ReLU
      -> concatenate -> 1x1, 256, BN, ReLU, dropout 0.5 -> 3x3, 256, BN, ReLU -> 1x1 scores

r = 6 at output stride 16 and 12 at 8 (section 3.3). Modules have torchvision's names, so its published
`deeplabv3_resnet50` weights (21 classes, output stride 8, auxiliary head) load key for key.

What it introduced over v2: batch normalisation in ASPP; a branch for the mean of the image, because a 3x3 kernel at a
large rate degenerates to its centre on a finite map; concatenation and projection in place of summed scores;
`multi_grid` (rates 1, 2, 4 within layer4, section 3.3); no CRF.

Parameters at 21 classes: 42,004,074 for ResNet-50 with auxiliary head, 39,638,869 without.

Deviations, as in torchvision: a 3x3 convolution precedes the scores; multi-grid is off by default; an auxiliary FCN
head on layer3 (PSPNet's) is optional.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.models.backbones.resnet import Depth, ResNet
from pipeline.models.config import ModelConfig
from pipeline.models.layers import BatchTooSmallError, SegmentationOutput, auxiliary_score, conv_bn_relu, scaled


class DeepLabV3Config(ModelConfig):
    """Configuration of DeepLab v3."""

    paper: ClassVar[str] = "Chen, Papandreou, Schroff & Adam, 2017"
    # Image pooling leaves one value per channel and image for batch normalisation.
    min_training_batch: ClassVar[int] = 2

    depth: Depth = Field(default=50, description="number of layers of the ResNet: 18, 34, 50, 101 or 152")
    widen: Literal[1, 2] = Field(
        default=1, description="factor by which the channels inside the residual blocks are multiplied: 1 or 2"
    )
    output_stride: Literal[8, 16] = Field(
        default=16, description="pixels of the image per unit of the last feature map: 8 or 16"
    )
    multi_grid: bool = Field(default=False, description="multiply the rates of layer4's blocks by 1, 2 and 4")
    auxiliary_head: bool = Field(default=False, description="score layer3 during training, for an auxiliary loss")

    def build(self, num_classes: int) -> "DeepLabV3":
        """Return a DeepLab v3 with fresh weights."""
        return DeepLabV3(self, num_classes=num_classes)


class DeepLabV3(nn.Module):
    """DeepLab v3 on a ResNet."""

    def __init__(self, config: DeepLabV3Config, *, num_classes: int):
        super().__init__()
        self.output_stride = config.output_stride
        self.backbone = ResNet(
            depth=config.depth,
            widen=config.widen,
            output_stride=config.output_stride,
            multi_grid=config.multi_grid,
            width=config.width,
        )
        channels = scaled(256, config.width)
        rate = 96 // config.output_stride
        self.classifier = nn.Sequential(
            ASPP(inputs=self.backbone.channels4, outputs=channels, rates=(rate, 2 * rate, 3 * rate)),
            *conv_bn_relu(channels, channels, 3),
            nn.Conv2d(channels, num_classes, 1),
        )
        self.aux_classifier: nn.Sequential | None = None
        if config.auxiliary_head:
            self.aux_classifier = auxiliary_score(self.backbone.channels3, num_classes)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1.

        Raises:
            BatchTooSmallError: In train mode, the batch is one image, of which image pooling leaves one value per
                channel.
        """
        features = self.backbone(images)
        logits = self.classifier(features.layer4)
        if self.training and self.aux_classifier is not None:
            return SegmentationOutput(logits, (self.aux_classifier(features.layer3),))
        return SegmentationOutput(logits)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (section 3.3): parallel rates and the mean of the image, concatenated.

    Args:
        inputs: Channels of the input.
        outputs: Channels of each branch and of the output.
        rates: Atrous rates of the three 3x3 branches.
    """

    def __init__(self, *, inputs: int, outputs: int, rates: tuple[int, int, int]):
        super().__init__()
        branches = [nn.Sequential(*conv_bn_relu(inputs, outputs, 1))]
        branches += [nn.Sequential(*conv_bn_relu(inputs, outputs, 3, rate=rate)) for rate in rates]
        branches.append(ImagePooling(inputs=inputs, outputs=outputs))
        self.convs = nn.ModuleList(branches)
        self.project = nn.Sequential(*conv_bn_relu(len(branches) * outputs, outputs, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Return features [batch, outputs, h, w] of a map [batch, inputs, h, w]."""
        return self.project(torch.cat([branch(x) for branch in self.convs], dim=1))


class ImagePooling(nn.Sequential):
    """The mean of the whole map, through a 1x1 convolution, broadcast to the size of the map.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
    """

    def __init__(self, *, inputs: int, outputs: int):
        super().__init__(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return features [batch, outputs, h, w] of a map [batch, inputs, h, w], the same at every position."""
        if self.training and len(x) < 2:
            raise BatchTooSmallError(
                "DeepLab v3's image pooling needs at least 2 images per worker in a training batch: "
                "batch normalisation of one value per channel is undefined"
            )
        return super().forward(x).expand(-1, -1, *x.shape[-2:])
