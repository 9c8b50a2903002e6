"""FCN-32s, FCN-16s and FCN-8s on VGG16.

Long, Shelhamer & Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015.

    VGG16 -> pool5 -> fc6 (7x7, 4096) -> fc7 (1x1, 4096) -> score (1x1)                 FCN-32s
        x2 up (+) score of pool4                                                        FCN-16s
            x2 up (+) score of pool3                                                    FCN-8s

The classifier's first layer becomes a 7x7 convolution (not 1x1), its second a 1x1 one, so ImageNet weights
carry over. Skips are fused from coarse to fine, x2 at a time, by sums. Score layers of the skips start at
zero: a finer network starts as its coarser one (section 4.3).

Parameters at 21 classes and width 1: 134.35 M (32s), 134.36 M (16s), 134.36 M (8s). The released networks
count 136.15 / 134.82 / 134.49 M because they store each interpolation as a full, mostly zero, kernel.

Deviations: fc6 is padded by 3 in place of padding the image by 100, so a map lies on its image without
crops; the last interpolation, which the paper fixes, is left to `layers.upsample`; the x2 ones work
channel by channel, start bilinear and learn.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from pipeline.models.config import ModelConfig
from pipeline.models.layers import SegmentationOutput, bilinear_deconvolution, crop_to, scaled
from pipeline.models.vgg import VGG16


class FCNConfig(ModelConfig):
    """`stride`: 32, 16 or 8, of the finest map that is scored. `width`: multiplies every layer's channels."""

    stride: Literal[32, 16, 8] = 8
    width: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    def build(self, num_classes: int) -> "FCN":
        return FCN(num_classes=num_classes, stride=self.stride, width=self.width)


class FCN(nn.Module):
    """FCN on VGG16; see the module's text.

    Args:
        num_classes: channels of the score maps.
        stride: 32, 16 or 8, the output stride.
        width: multiplies every layer's channels.
    """

    def __init__(self, *, num_classes: int, stride: Literal[32, 16, 8] = 8, width: float = 1.0):
        super().__init__()
        self.output_stride = stride
        self.backbone = VGG16(width=width)
        hidden = scaled(4096, width)
        self.fc6 = nn.Conv2d(self.backbone.channels5, hidden, 7, padding=3)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(0.5)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.score = _zero_score(hidden, num_classes)
        if stride <= 16:
            self.score_pool4 = _zero_score(self.backbone.channels4, num_classes)
            self.upscore_pool5 = bilinear_deconvolution(num_classes, 2)
        if stride <= 8:
            self.score_pool3 = _zero_score(self.backbone.channels3, num_classes)
            self.upscore_pool4 = bilinear_deconvolution(num_classes, 2)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Scores of normalised images [batch, 3, height, width], any size from 1x1."""
        features = self.backbone(images)
        x = self.dropout(self.relu(self.fc6(features.pool5)))
        x = self.dropout(self.relu(self.fc7(x)))
        x = self.score(x)
        if self.output_stride <= 16:
            skip = self.score_pool4(features.pool4)
            x = crop_to(self.upscore_pool5(x), skip.shape[-2:]) + skip
        if self.output_stride <= 8:
            skip = self.score_pool3(features.pool3)
            x = crop_to(self.upscore_pool4(x), skip.shape[-2:]) + skip
        return SegmentationOutput(x)


def _zero_score(inputs: int, num_classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, num_classes, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
