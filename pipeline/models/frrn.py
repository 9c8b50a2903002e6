"""FRRN A and B: full-resolution residual networks.

Pohlen, Hermans, Mathias & Leibe, "Full-Resolution Residual Networks for Semantic Segmentation in Street Scenes",
CVPR 2017.

    conv 5x5, 48 -> 3 RU ---+-- 1x1, 32 ------ residual stream, at full resolution ----- (concat) -> 3 RU -> scores
                            |    | ^   | ^   | ^          each FRRU reads it by pooling     ^
                            |    v |   v |   v |          and adds to it by unpooling       |
                            +- pool - FRRUs, coarser and coarser, then finer and finer - up +   pooling stream

    FRRU at scale k, streams y (pooling) and z (residual):
        y' = conv-BN-ReLU(conv-BN-ReLU([y, maxpool_k(z)]))          z' = z + unpool_k(1x1 convolution of y')

What it introduced: two streams. The residual stream keeps full resolution and carries gradients without a layer in
between; the pooling stream gathers context. The network is trained from scratch with a bootstrapped loss
(`--loss.terms bootstrapped=1`: the mean over the worst 512 x 64 pixels of each image).

    A   3 FRRU 96 /2 | 4 192 /4 | 2 384 /8 | 2 384 /16 | 2 192 /8 | 2 192 /4 | 2 96 /2          17.75 M at 19 classes
    B   the same with 2 384 /32 | 2 192 /16 in the middle                                       24.76 M

Each entry gives the number of FRRUs, their channels and their scale. A residual unit (RU) has no ReLU after its sum.
The pooling stream is upsampled bilinearly, and the update of the residual stream by nearest unpooling. Output stride 1.
Images are padded to a multiple of 16 (A) or 32 (B) by replicating the border.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.config import ModelConfig
from pipeline.models.layers import (
    BatchNorm2d,
    ResidualBlock,
    SegmentationOutput,
    conv_bn_relu,
    crop_to,
    kaiming,
    pad_to_multiple,
    scaled,
)
from pipeline.models.upsampling import nearest_unpooling

LANES = 32  # channels of the residual stream
BASE = 48  # channels of the first and last residual units
Plan = tuple[tuple[int, int, int], ...]  # number of FRRUs, channels, scale of the pooling stream
DOWN: Plan = ((3, 96, 2), (4, 192, 4), (2, 384, 8), (2, 384, 16))
UP: Plan = ((2, 192, 8), (2, 192, 4), (2, 96, 2))
PLANS: dict[Literal["A", "B"], Plan] = {"A": (*DOWN, *UP), "B": (*DOWN, (2, 384, 32), (2, 192, 16), *UP)}


class FRRNConfig(ModelConfig):
    """Configuration of FRRN."""

    paper: ClassVar[str] = "Pohlen, Hermans, Mathias & Leibe, CVPR 2017"

    variant: Literal["A", "B"] = Field(
        default="A", description='coarsest scale of the pooling stream: "A" goes down to 1/16, "B" to 1/32'
    )

    def build(self, num_classes: int) -> "FRRN":
        """Return an FRRN with fresh weights."""
        return FRRN(self, num_classes=num_classes)


class FRRN(nn.Module):
    """Full-resolution residual network."""

    output_stride = 1

    def __init__(self, config: FRRNConfig, *, num_classes: int):
        super().__init__()
        plan = PLANS[config.variant]
        base, lanes = scaled(BASE, config.width), scaled(LANES, config.width)
        self.head = nn.Sequential(*conv_bn_relu(3, base, 5), *(ResidualUnit(base, base) for _ in range(3)))
        self.split = nn.Sequential(nn.Conv2d(base, lanes, 1, bias=False), BatchNorm2d(lanes))
        self._scales = [scale for count, _, scale in plan for _ in range(count)]
        inputs, units = base, []
        for count, channels, scale in plan:
            for _ in range(count):
                outputs = scaled(channels, config.width)
                units.append(FRRU(inputs, outputs, lanes, scale))
                inputs = outputs
        self.units = nn.ModuleList(units)
        self.tail = nn.Sequential(
            ResidualUnit(inputs + lanes, base), ResidualUnit(base, base), ResidualUnit(base, base)
        )
        self.score = nn.Conv2d(base, num_classes, 1)
        kaiming(self.modules())

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1."""
        y = self.head(pad_to_multiple(images, max(self._scales)))
        z = self.split(y)
        before = 1
        for unit, scale in zip(self.units, self._scales, strict=True):
            if scale != before:
                y = F.max_pool2d(y, 2) if scale > before else _double(y)
                before = scale
            y, z = unit(y, z)
        x = self.tail(torch.cat([_double(y), z], dim=1))
        return SegmentationOutput(crop_to(self.score(x), (images.shape[-2], images.shape[-1])))


class FRRU(nn.Module):
    """Full-resolution residual unit (section 3.2).

    Args:
        inputs: Channels of the pooling stream before the unit.
        outputs: Channels of the pooling stream after the unit.
        lanes: Channels of the residual stream.
        scale: Factor by which the pooling stream is coarser than the residual stream.
    """

    def __init__(self, inputs: int, outputs: int, lanes: int, scale: int):
        super().__init__()
        self._scale = scale
        self.body = nn.Sequential(*conv_bn_relu(inputs + lanes, outputs, 3), *conv_bn_relu(outputs, outputs, 3))
        self.residual = nn.Conv2d(outputs, lanes, 1)

    def forward(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new pooling stream y' and residual stream z'."""
        y = self.body(torch.cat([y, F.max_pool2d(z, self._scale)], dim=1))
        return y, z + nearest_unpooling(self.residual(y), self._scale)


class ResidualUnit(ResidualBlock):
    """Two 3x3 convolutions with an identity shortcut, or a 1x1 convolution as shortcut if the channels differ.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn_relu(inputs, outputs, 3),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            BatchNorm2d(outputs),
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shortcut and the residual [batch, outputs, h, w] of a map [batch, inputs, h, w]."""
        return self.shortcut(x), self.body(x)


def _double(y: Tensor) -> Tensor:
    """Return the map upsampled x2 bilinearly."""
    return F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
