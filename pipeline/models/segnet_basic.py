"""SegNet-Basic: four levels of one 7x7 convolution each.

Badrinarayanan, Kendall & Cipolla, "SegNet", PAMI 2017, section 3.1: the small SegNet, trained from scratch, with
which the paper compares decoders.

    image -> local response normalisation -> 4 x [conv 7x7, 64, BN, ReLU, pool]
                                          -> 4 x [unpool by switches, conv 7x7, 64, BN] -> scores 1x1

The large kernels give a wide field of view without depth; the decoder has no ReLU. The paper normalises the local
contrast of the input; the released network does so with Caffe's local response normalisation across channels, and
so does this one.

The other kinds of `unpooling` are those that section 4 compares with.

Parameters: 1,417,237 at 21 classes, 1,416,587 at 11; the paper's table says 1.425 M. Output stride 1.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.config import ModelConfig
from pipeline.models.layers import BatchNorm2d, SegmentationOutput, conv_bn_relu, crop_to, kaiming, scaled
from pipeline.models.upsampling import max_pooling_with_switches, max_unpooling

LEVELS = 4


class SegNetBasicConfig(ModelConfig):
    """Configuration of SegNet-Basic."""

    paper: ClassVar[str] = "Badrinarayanan, Kendall & Cipolla, PAMI 2017"

    unpooling: Literal["switches", "deconvolution", "bilinear"] = Field(
        default="switches",
        description='upsampling of the decoder: "switches" (max unpooling), "deconvolution" (learned) or "bilinear"',
    )

    def build(self, num_classes: int) -> "SegNetBasic":
        """Return a SegNet-Basic with fresh weights."""
        return SegNetBasic(self, num_classes=num_classes)


class SegNetBasic(nn.Module):
    """Encoder and decoder of four levels, each with one 7x7 convolution."""

    output_stride = 1

    def __init__(self, config: SegNetBasicConfig, *, num_classes: int):
        super().__init__()
        channels = scaled(64, config.width)
        self.normalise = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)
        inputs = [3] + [channels] * (LEVELS - 1)
        self.encoder = nn.ModuleList(nn.Sequential(*conv_bn_relu(n, channels, 7, bias=True)) for n in inputs)
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 7, padding=3), BatchNorm2d(channels)) for _ in range(LEVELS)
        )
        self.unpooling = config.unpooling
        learned = LEVELS if config.unpooling == "deconvolution" else 0
        self.up = nn.ModuleList(nn.ConvTranspose2d(channels, channels, 2, stride=2) for _ in range(learned))
        self.score = nn.Conv2d(channels, num_classes, 1)
        kaiming(self.modules())

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1."""
        x = self.normalise(images)
        switches = []
        for stage in self.encoder:
            x = stage(x)
            size = (x.shape[-2], x.shape[-1])
            x, indices = max_pooling_with_switches(x)
            switches.append((indices, size))
        for i, (stage, (indices, size)) in enumerate(zip(self.decoder, reversed(switches), strict=True)):
            match self.unpooling:
                case "switches":
                    x = max_unpooling(x, indices, size)
                case "deconvolution":
                    x = crop_to(self.up[i](x), size)
                case "bilinear":
                    x = crop_to(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False), size)
            x = stage(x)
        return SegmentationOutput(self.score(x))
