"""DeepLab v2: atrous spatial pyramid pooling with summed scores.

Chen, Papandreou, Kokkinos, Murphy & Yuille, "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets,
Atrous Convolution, and Fully Connected CRFs", PAMI 2018.

                 /-> 3x3, rate r1 -> ... -> scores \\
    backbone /8 ---> 3x3, rate r2 -> ... -> scores  (+) -> x8 bilinear (-> dense CRF)
                 --> 3x3, rate r3 -> ... -> scores /
                 \\-> 3x3, rate r4 -> ... -> scores

    VGG16        each branch is 3x3, 1024 -> 1x1, 1024 -> 1x1 scores (LargeFOV's layers)      37.88 M
    ResNet-101   each branch is a single 3x3 from 2048 channels to the classes, with bias,
                 without batch normalisation or ReLU                                          44.05 M

Rates: L = 6, 12, 18, 24 and S = 2, 4, 8, 12. All branches are 3x3; only their rates differ (effective sizes 13 to 49),
and there is no image pooling, no 1x1 branch and no concatenation: those are v3's.

What it introduced: ASPP; the ResNet-101 backbone with layer3 and layer4 atrous; multi-scale inputs with max fusion
(`multi_scale`, see there); the poly schedule.
"""

from typing import ClassVar, Literal

from torch import Tensor, nn

from pipeline.models.backbones.resnet import ResNet
from pipeline.models.backbones.vgg import VGG16
from pipeline.models.config import ModelConfig
from pipeline.models.layers import SegmentationOutput, kaiming, scaled
from pipeline.models.multi_scale import MultiScale

Backbone = Literal["vgg16", "resnet101"]
RATES: dict[Literal["L", "S"], tuple[int, ...]] = {"L": (6, 12, 18, 24), "S": (2, 4, 8, 12)}


class DeepLabV2Config(ModelConfig):
    """`backbone`: vgg16 or resnet101. `aspp`: L (rates 6, 12, 18, 24) or S (2, 4, 8, 12). `multi_scale`: inputs at
    scales 1, 0.75 and 0.5, fused by the maximum."""

    paper: ClassVar[str] = "Chen et al., PAMI 2018"
    auxiliary_weight: ClassVar[float] = 1.0

    backbone: Backbone = "resnet101"
    aspp: Literal["L", "S"] = "L"
    multi_scale: bool = False

    def build(self, num_classes: int) -> nn.Module:
        network = DeepLabV2(num_classes=num_classes, **self.model_dump(exclude={"multi_scale"}))
        return MultiScale(network) if self.multi_scale else network


class DeepLabV2(nn.Module):
    """DeepLab v2 at one scale; see the module's text.

    Args:
        num_classes: channels of the score maps.
        backbone: "vgg16" or "resnet101".
        aspp: "L" or "S", the set of rates.
        width: multiplies every layer's channels.
    """

    output_stride = 8

    def __init__(
        self, *, num_classes: int, backbone: Backbone = "resnet101", aspp: Literal["L", "S"] = "L", width: float = 1.0
    ):
        super().__init__()
        self.backbone: VGG16 | ResNet
        if backbone == "vgg16":
            self.backbone = VGG16(width=width, output_stride=8, pool=3)
            inputs, hidden = self.backbone.channels[4], scaled(1024, width)
            branches = [_vgg_branch(inputs, hidden, num_classes, rate) for rate in RATES[aspp]]
        else:
            self.backbone = ResNet(depth=101, width=width, output_stride=8)
            inputs = self.backbone.channels4
            branches = [_score(inputs, num_classes, 3, rate) for rate in RATES[aspp]]
        self.aspp = nn.ModuleList(branches)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Scores of normalised images [batch, 3, height, width], any size from 1x1."""
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
