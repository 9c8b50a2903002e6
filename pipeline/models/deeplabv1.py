"""DeepLab v1: VGG16 with atrous convolution.

Chen, Papandreou, Kokkinos, Murphy & Yuille, "Semantic Image Segmentation with Deep Convolutional Nets and Fully
Connected CRFs", ICLR 2015.

    VGG16, pools of 3x3; pool4 and pool5 have stride 1, conv5 has rate 2 (/8)
      -> fc6, atrous -> fc7 1x1 -> dropout 0.5 each -> score 1x1 -> x8 bilinear (-> dense CRF, `pipeline.crf`)

    head        fc6              channels   parameters at 21 classes
    7x7         7x7, rate 4      4096       134.35 M   VGG16's own layer, spread over the finer map
    4x4         4x4, rate 4      4096        65.14 M   a smaller field of view
    4x4_rate8   4x4, rate 8      4096        65.14 M   the field of view of 7x7 with the weights of 4x4
    large_fov   3x3, rate 12     1024        20.51 M   the field of view of 7x7 at 3x the speed; recommended

What it introduced: atrous convolution in place of striding, which enlarges the field of view with the same number of
weights; output stride 8, which has 16 times the positions of output stride 32; the fully connected CRF on top.

`multi_scale` is MSc (section 4.3): the image and pool1 to pool4 each pass through a 3x3 convolution with 128 channels,
whose stride brings them to /8, and a 1x1 convolution with 128 channels. The resulting 640 channels are concatenated to
those of fc7. MSc-LargeFOV has 21.71 M parameters.

Deviations: it is trained on labels at full resolution, not on every eighth label. The padding of the pools rounds
sizes up, which is Caffe's rule for the paper's inputs of 32 k + 1 pixels (321).
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.models.backbones.vgg import VGG16
from pipeline.models.config import ModelConfig
from pipeline.models.layers import SegmentationOutput, kaiming, scaled

Head = Literal["7x7", "4x4", "4x4_rate8", "large_fov"]
HEADS: dict[Head, tuple[int, int, int]] = {  # kernel, rate, channels
    "7x7": (7, 4, 4096),
    "4x4": (4, 4, 4096),
    "4x4_rate8": (4, 8, 4096),
    "large_fov": (3, 12, 1024),
}
SIDE_STRIDES = (8, 4, 2, 1, 1)  # from the image and pool1 to pool4 to the output stride


class DeepLabV1Config(ModelConfig):
    """Configuration of DeepLab v1."""

    paper: ClassVar[str] = "Chen et al., ICLR 2015"

    head: Head = Field(
        default="large_fov",
        description='fc6: "7x7" (rate 4), "4x4" (rate 4), "4x4_rate8" (rate 8) or "large_fov" (3x3, rate 12)',
    )
    multi_scale: bool = Field(
        default=False, description="concatenate features of the image and of pool1 to pool4 to those of fc7 (MSc)"
    )

    def build(self, num_classes: int) -> "DeepLabV1":
        """Return a DeepLab v1 with fresh weights."""
        return DeepLabV1(self, num_classes=num_classes)


class DeepLabV1(nn.Module):
    """DeepLab v1 on VGG16."""

    output_stride = 8
    # The convolutions that take the weights of torchvision's fully connected layers.
    pretrained_layers: ClassVar[dict[str, str]] = {"classifier.0": "fc6", "classifier.3": "fc7"}

    def __init__(self, config: DeepLabV1Config, *, num_classes: int):
        super().__init__()
        kernel, rate, channels = HEADS[config.head]
        hidden = scaled(channels, config.width)
        self.backbone = VGG16(width=config.width, output_stride=8, pool=3)
        padding = rate * (kernel - 1) // 2
        self.fc6 = nn.Conv2d(self.backbone.channels[4], hidden, kernel, padding=padding, dilation=rate)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.sides: nn.ModuleList | None = None
        if config.multi_scale:
            side = scaled(128, config.width)
            inputs = (3, *self.backbone.channels[:4])
            self.sides = nn.ModuleList(_side(n, side, stride) for n, stride in zip(inputs, SIDE_STRIDES, strict=True))
            hidden += len(inputs) * side
        kaiming((self.fc6, self.fc7), mode="fan_in")
        self.score = nn.Conv2d(hidden, num_classes, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.zeros_(self.score.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1."""
        features = self.backbone(images)
        x = self.dropout(self.relu(self.fc6(features.pool5)))
        x = self.dropout(self.relu(self.fc7(x)))
        if self.sides is not None:
            sources = (images, *features[:4])
            x = torch.cat([x, *(side(source) for side, source in zip(self.sides, sources, strict=True))], dim=1)
        return SegmentationOutput(self.score(x))


def _side(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return MSc's two convolutions on the image or on the output of a pool."""
    side = nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 1),
        nn.ReLU(inplace=True),
    )
    kaiming(side, mode="fan_in")
    return side
