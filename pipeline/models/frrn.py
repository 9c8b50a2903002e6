"""FRRN A and B: full-resolution residual networks.

Pohlen, Hermans, Mathias & Leibe, "Full-Resolution Residual Networks for Semantic Segmentation in Street Scenes",
CVPR 2017.

    conv 5x5, 48 -> 3 RU ---+-- 1x1, 32 ------ residual stream, at full resolution ----- (concat) -> 3 RU -> scores
                            |    | ^   | ^   | ^          each FRRU reads it by pooling     ^
                            |    v |   v |   v |          and adds to it by unpooling       |
                            +- pool - FRRUs, coarser and coarser, then finer and finer - up +   pooling stream

    FRRU at scale k, streams y (pooling) and z (residual):
        y' = conv-BN-ReLU(conv-BN-ReLU([y, maxpool_k(z)]))          z' = z + unpool_k(1x1 convolution of y')

What it introduced: two streams. The residual one never loses resolution and carries gradients without a layer in
between; the pooling one gathers context. Trained from scratch with a bootstrapped loss
(`--loss.terms bootstrapped=1`: the mean of the worst 512 x 64 pixels of each image).

    A   3 FRRU 96 /2 | 4 192 /4 | 2 384 /8 | 2 384 /16 | 2 192 /8 | 2 192 /4 | 2 96 /2          17.75 M at 19 classes
    B   the same with 2 384 /32 | 2 192 /16 in the middle                                       24.76 M

The first number is how many FRRUs, then channels and scale. A residual unit (RU) has no ReLU after its sum; the
pooling stream goes up bilinearly, what is added to the residual stream by nearest unpooling. Output stride 1; images
are continued to a multiple of 16 (A) or 32 (B).
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
from pipeline.models.upsampling import nearest_unpooling

LANES = 32  # channels of the residual stream
BASE = 48
# units, channels, scale of the pooling stream
Plan = tuple[tuple[int, int, int], ...]
DOWN: Plan = ((3, 96, 2), (4, 192, 4), (2, 384, 8), (2, 384, 16))
UP: Plan = ((2, 192, 8), (2, 192, 4), (2, 96, 2))
PLANS: dict[Literal["A", "B"], Plan] = {"A": (*DOWN, *UP), "B": (*DOWN, (2, 384, 32), (2, 192, 16), *UP)}


class FRRNConfig(ModelConfig):
    """`variant`: A (down to /16) or B (down to /32)."""

    paper: ClassVar[str] = "Pohlen, Hermans, Mathias & Leibe, CVPR 2017"

    variant: Literal["A", "B"] = "A"

    def build(self, num_classes: int) -> "FRRN":
        return FRRN(num_classes=num_classes, variant=self.variant, width=self.width)


class FRRN(nn.Module):
    """FRRN; see the module's text.

    Args:
        num_classes: channels of the score maps.
        variant: "A" or "B".
        width: multiplies every layer's channels.
    """

    output_stride = 1

    def __init__(self, *, num_classes: int, variant: Literal["A", "B"] = "A", width: float = 1.0):
        super().__init__()
        plan = PLANS[variant]
        base, lanes = scaled(BASE, width), scaled(LANES, width)
        self.head = nn.Sequential(*conv_bn_relu(3, base, 5), *(ResidualUnit(base, base) for _ in range(3)))
        self.split = nn.Sequential(nn.Conv2d(base, lanes, 1, bias=False), BatchNorm2d(lanes))
        self._scales = [scale for count, _, scale in plan for _ in range(count)]
        inputs, units = base, []
        for count, channels, scale in plan:
            for _ in range(count):
                units.append(FRRU(inputs, scaled(channels, width), lanes, scale))
                inputs = scaled(channels, width)
        self.units = nn.ModuleList(units)
        self.tail = nn.Sequential(
            ResidualUnit(inputs + lanes, base), ResidualUnit(base, base), ResidualUnit(base, base)
        )
        self.score = nn.Conv2d(base, num_classes, 1)
        kaiming(self.modules())

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Scores of normalised images [batch, 3, height, width], any size from 1x1."""
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
    """Full-resolution residual unit (section 3.2)."""

    def __init__(self, inputs: int, outputs: int, lanes: int, scale: int):
        super().__init__()
        self._scale = scale
        self.body = nn.Sequential(*conv_bn_relu(inputs + lanes, outputs, 3), *conv_bn_relu(outputs, outputs, 3))
        self.residual = nn.Conv2d(outputs, lanes, 1)

    def forward(self, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(torch.cat([y, F.max_pool2d(z, self._scale)], dim=1))
        return y, z + nearest_unpooling(self.residual(y), self._scale)


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions around an identity, or around a 1x1 convolution where the widths differ."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn_relu(inputs, outputs, 3),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            BatchNorm2d(outputs),
        )
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


def _double(y: Tensor) -> Tensor:
    return F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
