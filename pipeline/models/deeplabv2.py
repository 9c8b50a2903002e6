r"""DeepLab v2: atrous spatial pyramid pooling (ASPP) with summed scores.

Chen, Papandreou, Kokkinos, Murphy & Yuille, "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets,
Atrous Convolution, and Fully Connected CRFs", PAMI 2018.

                 /-> 3x3, rate r1 -> ... -> scores \
    backbone /8 ---> 3x3, rate r2 -> ... -> scores  (+) -> x8 bilinear (-> dense CRF)
                 --> 3x3, rate r3 -> ... -> scores /
                 \-> 3x3, rate r4 -> ... -> scores

    VGG16        each branch is 3x3, 1024 -> 1x1, 1024 -> 1x1 scores (LargeFOV's layers)      37.88 M
    ResNet-101   each branch is a single 3x3 from 2048 channels to the classes, with bias,
                 without batch normalisation or ReLU                                          44.05 M

Rates: L = 6, 12, 18, 24 and S = 2, 4, 8, 12. All branches are 3x3 and differ only in their rates (effective kernel
sizes 13 to 49). Image pooling, the 1x1 branch and concatenation belong to v3.

What it introduced: ASPP; the ResNet-101 backbone with atrous layer3 and layer4; multi-scale inputs with max fusion
(the option `multi_scale`, see the module of that name); the poly learning rate schedule.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from pipeline.models.backbones.resnet import ResNet
from pipeline.models.backbones.vgg import VGG16
from pipeline.models.config import ModelConfig
from pipeline.models.layers import SegmentationOutput, kaiming, scaled
from pipeline.models.multi_scale import MultiScale

Rates = Literal["L", "S"]
RATES: dict[Rates, tuple[int, ...]] = {"L": (6, 12, 18, 24), "S": (2, 4, 8, 12)}


class DeepLabV2Config(ModelConfig):
    """Configuration of DeepLab v2."""

    paper: ClassVar[str] = "Chen et al., PAMI 2018"
    auxiliary_weight: ClassVar[float] = 1.0

    backbone: Literal["vgg16", "resnet101"] = Field(
        default="resnet101", description='network that computes the features: "vgg16" or "resnet101"'
    )
    aspp: Rates = Field(
        default="L", description='atrous rates of the four branches: "L" (6, 12, 18, 24) or "S" (2, 4, 8, 12)'
    )
    multi_scale: bool = Field(
        default=False, description="take the maximum of the scores of the image at scales 1, 0.75 and 0.5 (MSC)"
    )

    def build(self, num_classes: int) -> nn.Module:
        """Return a DeepLab v2 with fresh weights, inside a `MultiScale` if `multi_scale` is set."""
        network = DeepLabV2(self, num_classes=num_classes)
        return MultiScale(network) if self.multi_scale else network


class DeepLabV2(nn.Module):
    """DeepLab v2 at a single scale, whatever `multi_scale` is."""

    output_stride = 8

    def __init__(self, config: DeepLabV2Config, *, num_classes: int):
        super().__init__()
        rates = RATES[config.aspp]
        self.backbone: VGG16 | ResNet
        if config.backbone == "vgg16":
            self.backbone = VGG16(width=config.width, output_stride=8, pool=3)
            inputs, hidden = self.backbone.channels[4], scaled(1024, config.width)
            branches = [_vgg_branch(inputs, hidden, num_classes, rate) for rate in rates]
        else:
            self.backbone = ResNet(depth=101, width=config.width, output_stride=8)
            inputs = self.backbone.channels4
            branches = [_score(inputs, num_classes, 3, rate) for rate in rates]
        self.aspp = nn.ModuleList(branches)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1."""
        x = self.backbone(images)[-1]
        scores = self.aspp[0](x)
        for branch in self.aspp[1:]:
            scores = scores + branch(x)
        return SegmentationOutput(scores)


def _vgg_branch(inputs: int, hidden: int, num_classes: int, rate: int) -> nn.Module:
    body = nn.Sequential(
        nn.Conv2d(inputs, hidden, 3, padding=rate, dilation=rate),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Conv2d(hidden, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
    )
    kaiming(body, mode="fan_in")
    return nn.Sequential(*body, _score(hidden, num_classes, 1, 1))


def _score(inputs: int, num_classes: int, kernel: int, rate: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, num_classes, kernel, padding=rate * (kernel // 2), dilation=rate)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
