"""Classifiers whose score of a class is a sum over places: the networks behind class activation maps.

Zhou, Khosla, Lapedriza, Oliva & Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016,
section 2. The fully connected layers of a classifier, and the last pool before them, give way to

    backbone at stride 16 -> 3x3 convolution, 1024, ReLU -> mean (or maximum) over places -> scores

    AlexNet     after conv5                        13x13 at 224 pixels     4.9 M parameters at 21 classes
    VGG16       after conv5_3                      14x14                  19.5 M
    GoogLeNet   after inception_4e                 14x14                  11.0 M
    ResNets     after layer4; they end so already: no convolution is added

GAP is Lin et al.'s network in network (2014); GMP, global max pooling, is Oquab et al.'s (CVPR 2015), and sees a class
where it is most itself rather than everywhere it is. Deviations: a ResNet's layer4 is atrous by default, which gives
maps of stride 16 in place of 32 with the same weights. torchvision's classifiers load into the backbones.
"""

from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from pipeline.models.backbones.alexnet import AlexNet
from pipeline.models.backbones.googlenet import GoogLeNet
from pipeline.models.backbones.resnet import Depth, ResNet
from pipeline.models.backbones.vgg import VGG16
from pipeline.models.config import ModelConfig
from pipeline.models.layers import kaiming, scaled

Pooling = Literal["gap", "gmp"]


class ClassifierOutput(NamedTuple):
    """What every classifier returns.

    Attributes:
        logits: [batch, classes], unnormalised scores.
        features: [batch, channels, h, w], the input of the global pooling; with the weights `fc.weight` of the model
            they give the maps of classes (see `cam`).
    """

    logits: Tensor
    features: Tensor


class CAMConfig(ModelConfig):
    """`pooling`: gap or gmp. `output_stride`: of a ResNet. `added`: channels of the added convolution, 0 for none."""

    paper: ClassVar[str] = "Zhou et al., CVPR 2016"
    classifies: ClassVar[bool] = True

    backbone: Literal["alexnet", "vgg16", "googlenet", "resnet"] = "vgg16"
    pooling: Pooling = "gap"
    added: int = 1024
    depth: Depth = 50
    widen: int = 1
    output_stride: Literal[8, 16, 32] = 16

    def build(self, num_classes: int) -> "CAMClassifier":
        return CAMClassifier(num_classes=num_classes, **self.model_dump())


class CAMClassifier(nn.Module):
    """A backbone, global pooling and one linear layer; see the module's text.

    Args:
        num_classes: scores per image.
        backbone: "alexnet", "vgg16", "googlenet" or "resnet".
        pooling: over places, "gap" (mean) or "gmp" (maximum).
        added: channels of the 3x3 convolution before the pooling; 0 for none.
        depth, widen, output_stride: of a ResNet, see `resnet`; the other backbones have stride 16.
        width: multiplies every layer's channels.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        backbone: Literal["alexnet", "vgg16", "googlenet", "resnet"] = "vgg16",
        pooling: Pooling = "gap",
        added: int = 1024,
        depth: Depth = 50,
        widen: int = 1,
        output_stride: Literal[8, 16, 32] = 16,
        width: float = 1.0,
    ):
        super().__init__()
        self.backbone: nn.Module
        match backbone:
            case "alexnet":
                self.backbone = AlexNet(width=width, last_pool=False)
                channels = self.backbone.channels
            case "vgg16":
                self.backbone = VGG16(width=width)
                channels = self.backbone.channels[-1]
            case "googlenet":
                self.backbone = GoogLeNet(width=width)
                channels = self.backbone.channels
            case "resnet":
                self.backbone = ResNet(depth=depth, widen=widen, output_stride=output_stride, width=width)
                channels = self.backbone.channels4
        self.output_stride = output_stride if backbone == "resnet" else 16
        self.pooling = pooling
        self.added: nn.Module = nn.Identity()
        if added:
            self.added = nn.Sequential(nn.Conv2d(channels, scaled(added, width), 3, padding=1), nn.ReLU(inplace=True))
            channels = scaled(added, width)
        kaiming(self.added.modules())
        self.fc = nn.Linear(channels, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Scores of normalised images [batch, 3, height, width], from 63x63."""
        features = self.added(self._map(images))
        return ClassifierOutput(self.fc(pooled(features, self.pooling)), features)

    def _map(self, images: Tensor) -> Tensor:
        if isinstance(self.backbone, VGG16):
            return self.backbone.before_pools(images)[-1]
        if isinstance(self.backbone, ResNet):
            return self.backbone(images).layer4
        return self.backbone(images)


def pooled(features: Tensor, pooling: Pooling) -> Tensor:
    """[batch, channels] of [batch, channels, h, w]."""
    return features.mean(dim=(2, 3)) if pooling == "gap" else features.amax(dim=(2, 3))
