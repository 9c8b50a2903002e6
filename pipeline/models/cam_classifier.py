"""Classifiers with global pooling, the networks behind class activation maps.

Zhou, Khosla, Lapedriza, Oliva & Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016,
section 2. The fully connected layers of a classifier and the last pool before them are replaced:

    backbone at stride 16 -> 3x3 convolution, 1024, ReLU -> mean (or maximum) over positions -> scores

    AlexNet     after conv5                        13x13 at 224 pixels     4.9 M parameters at 21 classes
    VGG16       after conv5_3                      14x14                  19.5 M
    GoogLeNet   after inception_4e                 14x14                  11.0 M
    ResNets     after layer4, which global pooling follows anyway; no convolution is added

Global average pooling (GAP) is from Lin et al.'s network in network (2014). Global max pooling (GMP) is from Oquab et
al. (CVPR 2015); it responds to the most discriminative part of an object rather than to its whole extent.

Deviation: a ResNet's layer4 is atrous by default, which gives maps of stride 16 in place of 32 with the same weights.
torchvision's classifiers load into the backbones.
"""

from typing import ClassVar, Literal, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from pipeline.models.backbones.alexnet import AlexNet
from pipeline.models.backbones.googlenet import GoogLeNet
from pipeline.models.backbones.resnet import Depth, ResNet
from pipeline.models.backbones.vgg import VGG16
from pipeline.models.config import ModelConfig, ModelTask
from pipeline.models.layers import kaiming, scaled

Pooling = Literal["gap", "gmp"]


class ClassifierOutput(NamedTuple):
    """The output of every classifier.

    Attributes:
        logits: Unnormalised scores [batch, classes].
        features: Input [batch, channels, h, w] of the global pooling, of which the model's `fc.weight` makes the class
            activation maps (see `pipeline.cam`).
    """

    logits: Tensor
    features: Tensor


class CAMConfig(ModelConfig):
    """Configuration of a classifier with global pooling."""

    paper: ClassVar[str] = "Zhou et al., CVPR 2016"
    task: ClassVar[ModelTask] = "classification"

    backbone: Literal["alexnet", "vgg16", "googlenet", "resnet"] = Field(
        default="vgg16", description='network that computes the features: "alexnet", "vgg16", "googlenet" or "resnet"'
    )
    pooling: Pooling = Field(default="gap", description='"gap" (global average) or "gmp" (global maximum)')
    added: int = Field(
        default=1024, ge=0, le=65_536, description="channels of the 3x3 convolution before the pooling; 0 for none"
    )
    batch_norm: bool = Field(
        default=False,
        description="batch normalisation after each convolution of VGG16, with which it learns from scratch",
    )
    depth: Depth = Field(default=50, description="number of layers of a ResNet: 18, 34, 50, 101 or 152")
    widen: int = Field(
        default=1,
        ge=1,
        le=100,
        description="factor by which the channels inside the residual blocks of a ResNet are multiplied",
    )
    output_stride: Literal[8, 16, 32] = Field(
        default=16, description="output stride of a ResNet: 8, 16 or 32; that of the other backbones is always 16"
    )

    def build(self, num_classes: int) -> "CAMClassifier":
        """Return a classifier with fresh weights."""
        return CAMClassifier(self, num_classes=num_classes)


class CAMClassifier(nn.Module):
    """A backbone, global pooling and one linear layer."""

    def __init__(self, config: CAMConfig, *, num_classes: int):
        super().__init__()
        self.output_stride = 16
        self.backbone: nn.Module
        match config.backbone:
            case "alexnet":
                self.backbone = AlexNet(width=config.width, last_pool=False)
                channels = self.backbone.channels
            case "vgg16":
                self.backbone = VGG16(width=config.width, batch_norm=config.batch_norm)
                channels = self.backbone.channels[-1]
            case "googlenet":
                self.backbone = GoogLeNet(width=config.width)
                channels = self.backbone.channels
            case "resnet":
                self.output_stride = config.output_stride
                self.backbone = ResNet(
                    depth=config.depth, widen=config.widen, output_stride=config.output_stride, width=config.width
                )
                channels = self.backbone.channels4
        self.pooling = config.pooling
        self.added: nn.Module = nn.Identity()
        if config.added:
            outputs = scaled(config.added, config.width)
            self.added = nn.Sequential(nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU(inplace=True))
            channels = outputs
        kaiming(self.added.modules())
        self.fc = nn.Linear(channels, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 63x63."""
        features = self.added(self._map(images))
        return ClassifierOutput(self.fc(pooled(features, self.pooling)), features)

    def _map(self, images: Tensor) -> Tensor:
        if isinstance(self.backbone, VGG16):
            return self.backbone.before_pools(images)[-1]
        if isinstance(self.backbone, ResNet):
            return self.backbone(images).layer4
        return self.backbone(images)


def pooled(features: Tensor, pooling: Pooling) -> Tensor:
    """Return the pooled features [batch, channels] of a map [batch, channels, h, w]."""
    return features.mean(dim=(2, 3)) if pooling == "gap" else features.amax(dim=(2, 3))
