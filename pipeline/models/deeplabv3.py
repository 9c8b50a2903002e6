"""DeepLab v3: atrous spatial pyramid pooling on a ResNet.

Chen, Papandreou, Schroff & Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017.

    ResNet at output stride 8 or 16
      -> ASPP: 1x1 | 3x3 rate r | 3x3 rate 2r | 3x3 rate 3r | image pooling, 256 channels each, BN, ReLU
      -> concatenate -> 1x1, 256, BN, ReLU, dropout 0.5 -> 3x3, 256, BN, ReLU -> 1x1 scores

r = 6 at output stride 16 and 12 at 8 (section 3.3). Modules carry torchvision's names, so its published
`deeplabv3_resnet50` weights (21 classes, output stride 8, auxiliary head) load key for key.

What it introduced over v2: batch normalisation in ASPP, a branch for the image's mean (at large rates a 3x3 on a
finite map degenerates to its centre), concatenation and projection in place of summed scores, `multi_grid` (rates
1, 2, 4 within layer4, section 3.3), no CRF.

Parameters at 21 classes: 42,004,074 for ResNet-50 with auxiliary head, 39,638,869 without.

Deviations, as torchvision's: a 3x3 convolution before the scores; no multi-grid unless asked for; an optional
auxiliary FCN head on layer3 (PSPNet's).
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pipeline.models.backbones.resnet import Depth, ResNet
from pipeline.models.config import ModelConfig
from pipeline.models.layers import BatchTooSmallError, SegmentationOutput, auxiliary_score, conv_bn_relu, scaled


class DeepLabV3Config(ModelConfig):
    """`depth`: of the ResNet. `widen`: 2 for wide ResNet-50-2. `output_stride`: 8 or 16. `multi_grid`: rates 1, 2, 4
    within layer4. `auxiliary_head`: a second, weighted loss on layer3 while training."""

    paper: ClassVar[str] = "Chen, Papandreou, Schroff & Adam, 2017"
    # Batch normalisation of image pooling's one value per channel needs a second image.
    min_training_batch: ClassVar[int] = 2

    depth: Depth = 50
    widen: Literal[1, 2] = 1
    output_stride: Literal[8, 16] = 16
    multi_grid: bool = False
    auxiliary_head: bool = False

    def build(self, num_classes: int) -> "DeepLabV3":
        return DeepLabV3(num_classes=num_classes, **self.model_dump())


class DeepLabV3(nn.Module):
    """DeepLab v3; see the module's text.

    Args:
        num_classes: channels of the score maps.
        depth: of the ResNet: 18, 34, 50, 101 or 152.
        widen: multiplies the 3x3 convolutions of the ResNet's bottlenecks.
        output_stride: 8 or 16.
        multi_grid: rates 1, 2 and 4 within layer4.
        auxiliary_head: also score layer3 in train mode.
        width: multiplies every layer's channels.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        depth: Depth = 50,
        widen: int = 1,
        output_stride: Literal[8, 16] = 16,
        multi_grid: bool = False,
        auxiliary_head: bool = False,
        width: float = 1.0,
    ):
        super().__init__()
        self.output_stride = output_stride
        self.backbone = ResNet(
            depth=depth, widen=widen, output_stride=output_stride, multi_grid=multi_grid, width=width
        )
        channels = scaled(256, width)
        rate = 96 // output_stride
        self.classifier = nn.Sequential(
            ASPP(inputs=self.backbone.channels4, outputs=channels, rates=(rate, 2 * rate, 3 * rate)),
            *conv_bn_relu(channels, channels, 3),
            nn.Conv2d(channels, num_classes, 1),
        )
        self.aux_classifier: nn.Sequential | None = None
        if auxiliary_head:
            self.aux_classifier = auxiliary_score(self.backbone.channels3, num_classes)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Scores of normalised images [batch, 3, height, width], any size from 1x1.

        Raises:
            BatchTooSmallError: a batch of one image in train mode, where image pooling leaves one value per channel.
        """
        features = self.backbone(images)
        logits = self.classifier(features.layer4)
        if self.training and self.aux_classifier is not None:
            return SegmentationOutput(logits, (self.aux_classifier(features.layer3),))
        return SegmentationOutput(logits)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (section 3.3): parallel rates and the whole image's mean, concatenated."""

    def __init__(self, *, inputs: int, outputs: int, rates: tuple[int, int, int]):
        super().__init__()
        branches = [nn.Sequential(*conv_bn_relu(inputs, outputs, 1))]
        branches += [nn.Sequential(*conv_bn_relu(inputs, outputs, 3, rate=rate)) for rate in rates]
        branches.append(ImagePooling(inputs=inputs, outputs=outputs))
        self.convs = nn.ModuleList(branches)
        self.project = nn.Sequential(*conv_bn_relu(len(branches) * outputs, outputs, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([branch(x) for branch in self.convs], dim=1))


class ImagePooling(nn.Sequential):
    """The mean over the whole map through a 1x1 convolution, spread over the map again."""

    def __init__(self, *, inputs: int, outputs: int):
        super().__init__(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            raise BatchTooSmallError(
                "DeepLab v3's image pooling needs at least 2 images per worker in a training batch: "
                "batch normalisation of one value per channel is undefined"
            )
        return super().forward(x).expand(-1, -1, *x.shape[-2:])
