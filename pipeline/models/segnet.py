"""SegNet: a mirrored VGG16 that upsamples by the encoder's max-pooling indices.

Badrinarayanan, Kendall & Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation", PAMI 2017 (arXiv 2015).

    image -> conv x2 64 -> pool -> x2 128 -> pool -> x3 256 -> pool -> x3 512 -> pool -> x3 512 -> pool
               |              |               |               |               |  switches    |
    scores <- 64, C <- unpool <- 128, 64 <- unpool <- 256, 256, 128 <- unpool <- 512, 512, 256 <- ... <- unpool

What it introduced: the decoder unpools by the switches of the corresponding pooling layer, so no encoder feature maps
are kept and no upsampling is learned, and convolutions make the sparse maps dense. There are no fully connected
layers, which leaves about a tenth of DeconvNet's weights. Every convolution has a bias, batch normalisation and ReLU,
except the last one, a 3x3 convolution to the classes.

Pooling rounds sizes up, as in Caffe, and unpooling is given the original size: 360x480 becomes 180x240, 90x120,
45x60, 23x30 and 12x15.

Parameters: 29,455,125 at 21 classes, 29,449,355 at 11. Output stride 1. The encoder takes torchvision's `vgg16_bn`.
"""

from typing import ClassVar

from torch import Tensor, nn

from pipeline.models.backbones.vgg import VGG16
from pipeline.models.config import ModelConfig
from pipeline.models.layers import SegmentationOutput, conv_bn_relu, kaiming, scaled
from pipeline.models.upsampling import max_unpooling

DECODER = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,))  # channels of each stage's layers


class SegNetConfig(ModelConfig):
    """Configuration of SegNet."""

    paper: ClassVar[str] = "Badrinarayanan, Kendall & Cipolla, PAMI 2017"

    def build(self, num_classes: int) -> "SegNet":
        """Return a SegNet with fresh weights."""
        return SegNet(self, num_classes=num_classes)


class SegNet(nn.Module):
    """SegNet on VGG16."""

    output_stride = 1

    def __init__(self, config: SegNetConfig, *, num_classes: int):
        super().__init__()
        self.backbone = VGG16(width=config.width, batch_norm=True)
        inputs = self.backbone.channels[-1]
        stages = []
        for widths in DECODER:
            layers: list[nn.Module] = []
            for outputs in (scaled(n, config.width) for n in widths):
                layers += conv_bn_relu(inputs, outputs, 3, bias=True)
                inputs = outputs
            stages.append(nn.Sequential(*layers))
        self.decoder = nn.ModuleList(stages)
        self.score = nn.Conv2d(inputs, num_classes, 3, padding=1)
        kaiming((*self.decoder.modules(), self.score))

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1."""
        x, switches = self.backbone.encode(images)
        for stage, (indices, size) in zip(self.decoder, reversed(switches), strict=True):
            x = stage(max_unpooling(x, indices, size))
        return SegmentationOutput(self.score(x))
