"""SegNet-Basic: four levels of one 7x7 convolution.

Badrinarayanan, Kendall & Cipolla, "SegNet", PAMI 2017, section 3.1: the small SegNet, trained from scratch, on
which the paper compares decoders.

    image -> local response normalisation -> 4 x [conv 7x7, 64, BN, ReLU, pool]
                                          -> 4 x [unpool by switches, conv 7x7, 64, BN] -> scores 1x1

The large kernels give a field of view without depth; decoders have no ReLU. The input is normalised by its
neighbourhood (the paper's local contrast normalisation; in the released net Caffe's LRN across channels, as here).

Parameters: 1,417,237 at 21 classes, 1,416,587 at 11; the paper's table says 1.425 M. Output stride 1.
"""

from typing import ClassVar

from torch import Tensor, nn

from pipeline.models.config import ModelConfig
from pipeline.models.layers import BatchNorm2d, SegmentationOutput, conv_bn_relu, kaiming, scaled
from pipeline.models.upsampling import max_pooling_with_switches, max_unpooling

LEVELS = 4


class SegNetBasicConfig(ModelConfig):
    """SegNet-Basic has no options but its width."""

    paper: ClassVar[str] = "Badrinarayanan, Kendall & Cipolla, PAMI 2017"

    def build(self, num_classes: int) -> "SegNetBasic":
        return SegNetBasic(num_classes=num_classes, width=self.width)


class SegNetBasic(nn.Module):
    """SegNet-Basic; see the module's text.

    Args:
        num_classes: channels of the score maps.
        width: multiplies every layer's channels.
    """

    output_stride = 1

    def __init__(self, *, num_classes: int, width: float = 1.0):
        super().__init__()
        channels = scaled(64, width)
        self.normalise = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        inputs = [3] + [channels] * (LEVELS - 1)
        self.encoder = nn.ModuleList(nn.Sequential(*conv_bn_relu(n, channels, 7, bias=True)) for n in inputs)
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 7, padding=3), BatchNorm2d(channels)) for _ in range(LEVELS)
        )
        self.score = nn.Conv2d(channels, num_classes, 1)
        kaiming(self.modules())

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Scores of normalised images [batch, 3, height, width], any size from 1x1."""
        x = self.normalise(images)
        switches = []
        for stage in self.encoder:
            x = stage(x)
            size = (x.shape[-2], x.shape[-1])
            x, indices = max_pooling_with_switches(x)
            switches.append((indices, size))
        for stage, (indices, size) in zip(self.decoder, reversed(switches), strict=True):
            x = stage(max_unpooling(x, indices, size))
        return SegmentationOutput(self.score(x))
