"""DeconvNet: a deep deconvolution network on VGG16.

Noh, Hong & Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015.

    224x224 -> VGG16 with BN -> 7x7 -> fc6 7x7, 4096 -> 1x1 -> fc7 1x1, 4096 -> deconv 7x7, 512 -> 7x7
      -> unpool, 512 512 512 -> unpool, 512 512 256 -> unpool, 256 256 128 -> unpool, 128 64 -> unpool, 64 64 -> scores

What it introduced: instead of one interpolation from a coarse map, a decoder as deep as the encoder. Unpooling by
the switches of the mirrored pooling puts each activation back where it came from; transposed convolutions (3x3,
stride 1) make the sparse maps dense. Batch normalisation after every layer, no dropout.

The network sees one object at a time: `pipeline.predict.instances` runs it on proposal boxes, and `ensemble` joins it
with FCN-8s. It also takes whole images: those smaller than 224 pixels a side, or no multiple of 32, are continued by
their last pixels and the scores cropped.

Parameters: 251.81 M at 21 classes. Output stride 1. The encoder takes torchvision's `vgg16_bn`, and fc6 and fc7 its
fully connected layers.
"""

from typing import ClassVar

from torch import Tensor, nn

from pipeline.models.backbones.vgg import VGG16
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
from pipeline.models.upsampling import max_unpooling

DECODER = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64, 64))
INPUT = 224  # what the 7x7 layer needs after five poolings


class DeconvNetConfig(ModelConfig):
    """DeconvNet has no options but its width."""

    paper: ClassVar[str] = "Noh, Hong & Han, ICCV 2015"
    # fc6 and fc7 of a 224x224 crop have one value per channel and image.
    min_training_batch: ClassVar[int] = 2

    def build(self, num_classes: int) -> "DeconvNet":
        return DeconvNet(num_classes=num_classes, width=self.width)


class DeconvNet(nn.Module):
    """DeconvNet; see the module's text.

    Args:
        num_classes: channels of the score maps.
        width: multiplies every layer's channels.
    """

    output_stride = 1
    pretrained_layers: ClassVar[dict[str, str]] = {"classifier.0": "fc6.0", "classifier.3": "fc7.0"}

    def __init__(self, *, num_classes: int, width: float = 1.0):
        super().__init__()
        self.backbone = VGG16(width=width, batch_norm=True)
        hidden, inputs = scaled(4096, width), self.backbone.channels[-1]
        self.fc6 = nn.Sequential(nn.Conv2d(inputs, hidden, 7), BatchNorm2d(hidden), nn.ReLU(inplace=True))
        self.fc7 = nn.Sequential(*conv_bn_relu(hidden, hidden, 1, bias=True))
        self.fc6_deconv = nn.Sequential(_deconv(hidden, inputs, 7, 0), BatchNorm2d(inputs), nn.ReLU(inplace=True))
        stages = []
        for widths in DECODER:
            layers: list[nn.Module] = []
            for outputs in (scaled(n, width) for n in widths):
                layers += [_deconv(inputs, outputs, 3, 1), BatchNorm2d(outputs), nn.ReLU(inplace=True)]
                inputs = outputs
            stages.append(nn.Sequential(*layers))
        self.decoder = nn.ModuleList(stages)
        self.score = nn.Conv2d(inputs, num_classes, 1)
        kaiming((*self.fc6, *self.fc7, *self.fc6_deconv, *self.decoder.modules(), self.score))

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Scores of normalised images [batch, 3, height, width], any size from 1x1.

        Raises:
            BatchTooSmallError: a batch of one image of up to 255 pixels a side in train mode; see `BatchNorm2d`.
        """
        size = (images.shape[-2], images.shape[-1])
        x, switches = self.backbone.encode(pad_to_multiple(images, 32, at_least=INPUT))
        x = self.fc6_deconv(self.fc7(self.fc6(x)))
        for stage, (indices, before) in zip(self.decoder, reversed(switches), strict=True):
            x = stage(max_unpooling(x, indices, before))
        return SegmentationOutput(crop_to(self.score(x), size))


def _deconv(inputs: int, outputs: int, kernel: int, padding: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, kernel, padding=padding)
