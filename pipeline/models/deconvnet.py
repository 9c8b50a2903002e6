"""DeconvNet: a deep deconvolution network on VGG16.

Noh, Hong & Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015.

    224x224 -> VGG16 with BN -> 7x7 -> fc6 7x7, 4096 -> 1x1 -> fc7 1x1, 4096 -> deconv 7x7, 512 -> 7x7
      -> unpool, 512 512 512 -> unpool, 512 512 256 -> unpool, 256 256 128 -> unpool, 128 64 -> unpool, 64 64 -> scores

What it introduced: a decoder as deep as the encoder in place of one interpolation from a coarse map. Unpooling by the
switches of the corresponding pooling layer puts each activation back where it came from, and transposed convolutions
(3x3, stride 1) make the sparse maps dense. Every layer has batch normalisation and none has dropout.

The network is meant to see one object at a time: `pipeline.predict.instances` runs it on box proposals, and `ensemble`
combines it with FCN-8s. It also takes whole images: it pads them to a multiple of 32 and to at least 224 pixels a side
by replicating the border, and crops the scores.

Parameters: 251.81 M at 21 classes. Output stride 1. The encoder takes torchvision's `vgg16_bn`, and fc6 and fc7 take
its fully connected layers.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from pipeline.models.backbones.vgg import VGG16
from pipeline.models.config import ModelConfig
from pipeline.models.layers import (
    BatchNorm2d,
    SegmentationOutput,
    crop_to,
    kaiming,
    pad_to_multiple,
    scaled,
)
from pipeline.models.upsampling import max_unpooling

DECODER = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64, 64))  # channels of each stage's layers
MIN_SIDE = 224  # The 7x7 kernel of fc6 needs 7x7 units after five poolings.


class DeconvNetConfig(ModelConfig):
    """Configuration of DeconvNet."""

    paper: ClassVar[str] = "Noh, Hong & Han, ICCV 2015"
    # fc6 and fc7 have one value per channel and image on a 224x224 crop.
    min_training_batch: ClassVar[int] = 2

    batch_norm: bool = Field(
        default=True, description="normalise after each layer; the paper reports that it does not learn without"
    )

    def build(self, num_classes: int) -> "DeconvNet":
        """Return a DeconvNet with fresh weights."""
        return DeconvNet(self, num_classes=num_classes)


class DeconvNet(nn.Module):
    """Deconvolution network on VGG16."""

    output_stride = 1
    # The convolutions that take the weights of torchvision's fully connected layers.
    pretrained_layers: ClassVar[dict[str, str]] = {"classifier.0": "fc6.0", "classifier.3": "fc7.0"}

    def __init__(self, config: DeconvNetConfig, *, num_classes: int):
        super().__init__()
        self.backbone = VGG16(width=config.width, batch_norm=config.batch_norm)
        hidden, inputs = scaled(4096, config.width), self.backbone.channels[-1]
        self.fc6 = _layer(nn.Conv2d(inputs, hidden, 7), config)
        self.fc7 = _layer(nn.Conv2d(hidden, hidden, 1), config)
        self.fc6_deconv = _layer(nn.ConvTranspose2d(hidden, inputs, 7), config)
        stages = []
        for widths in DECODER:
            layers: list[nn.Module] = []
            for outputs in (scaled(n, config.width) for n in widths):
                layers += _layer(nn.ConvTranspose2d(inputs, outputs, 3, padding=1), config)
                inputs = outputs
            stages.append(nn.Sequential(*layers))
        self.decoder = nn.ModuleList(stages)
        self.score = nn.Conv2d(inputs, num_classes, 1)
        kaiming((*self.fc6, *self.fc7, *self.fc6_deconv, *self.decoder.modules(), self.score))

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1.

        Raises:
            BatchTooSmallError: In train mode, the batch is one image of at most 224x224 pixels; see `BatchNorm2d`.
        """
        size = (images.shape[-2], images.shape[-1])
        x, switches = self.backbone.encode(pad_to_multiple(images, 32, at_least=MIN_SIDE))
        x = self.fc6_deconv(self.fc7(self.fc6(x)))
        for stage, (indices, before) in zip(self.decoder, reversed(switches), strict=True):
            x = stage(max_unpooling(x, indices, before))
        return SegmentationOutput(crop_to(self.score(x), size))


def _layer(convolution: nn.Conv2d | nn.ConvTranspose2d, config: DeconvNetConfig) -> nn.Sequential:
    """Return a convolution, batch normalisation if it is configured, and ReLU."""
    norm = [BatchNorm2d(convolution.out_channels)] if config.batch_norm else []
    return nn.Sequential(convolution, *norm, nn.ReLU(inplace=True))
