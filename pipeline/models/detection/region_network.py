"""The layers that R-CNN, SPPNet and Fast R-CNN share: a classifier cut into convolutions and fully connected layers.

    AlexNet   to conv5   -> pooled 6x6 or pyramid -> fc6 4096 -> fc7 4096
    VGG16     to conv5_3 -> pooled 7x7 or pyramid -> fc6 4096 -> fc7 4096
    ResNets   to layer3  -> pooled 14x14 -> layer4 -> mean            (He et al., CVPR 2016, appendix A)
              to layer4  -> pyramid -> fc6 4096 -> fc7 4096

All maps have stride 16. torchvision's classifiers load into all layers.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from pipeline.models.backbones.alexnet import AlexNet
from pipeline.models.backbones.resnet import Depth, ResNet
from pipeline.models.backbones.vgg import VGG16
from pipeline.models.detection.boxes import Selection, clip, not_empty
from pipeline.models.detection.detector import DetectionNetwork, DetectorConfig
from pipeline.models.detection.inputs import at_least_float32
from pipeline.models.layers import kaiming, scaled

STRIDE = 16
SIDES = {"alexnet": 6, "vgg16": 7, "resnet": 14}  # of the map that the layers after the pooling expect
FULLY_CONNECTED = {"alexnet": ("classifier.1", "classifier.4"), "vgg16": ("classifier.0", "classifier.3")}


class RegionConfig(DetectorConfig):
    """The options of a network that classifies proposals."""

    takes_proposals: ClassVar[bool] = True

    backbone: Literal["alexnet", "vgg16", "resnet"] = Field(
        default="vgg16", description='network that computes the features: "alexnet", "vgg16" or "resnet"'
    )
    depth: Depth = Field(default=50, description="number of layers of a ResNet: 18, 34, 50, 101 or 152")


class RegionNetwork(DetectionNetwork):
    """A backbone, and layers that compute the features of pooled regions.

    Args:
        config: Configuration of the network.
        num_classes: Number of classes without the background.
        selection: Default choice of the detections.
        bins: Number of bins of a pooled region if it is no map, as in a pyramid; None for a map of `side` x `side`.

    Attributes:
        side: Height and width of a pooled region.
        map_channels: Channels of the map of an image.
        pooled_features: Number of features of a pooled region.
        hidden_features: Number of features that classify a region.
    """

    def __init__(self, config: RegionConfig, *, num_classes: int, selection: Selection, bins: int | None = None):
        super().__init__(num_classes=num_classes, selection=selection)
        self.side = SIDES[config.backbone]
        self.pretrained_layers: dict[str, str] = {}
        self._whole = bins is not None  # whether layer4 of a ResNet belongs to the map of the image
        self.backbone: nn.Module
        match config.backbone:
            case "alexnet":
                self.backbone = AlexNet(width=config.width, last_pool=False)
                self.map_channels = self.backbone.channels
            case "vgg16":
                self.backbone = VGG16(width=config.width)
                self.map_channels = self.backbone.channels[-1]
            case "resnet":
                self.backbone = ResNet(depth=config.depth, width=config.width, output_stride=16 if self._whole else 32)
                self.map_channels = self.backbone.channels4 if self._whole else self.backbone.channels3
        self.pooled_features = self.map_channels * (bins or self.side**2)
        if isinstance(self.backbone, ResNet) and not self._whole:
            self.hidden_features = self.backbone.channels4
            return
        self.hidden_features = scaled(4096, config.width)
        self.fc6 = nn.Linear(self.pooled_features, self.hidden_features)
        self.fc7 = nn.Linear(self.hidden_features, self.hidden_features)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        kaiming((self.fc6, self.fc7), mode="fan_in")
        layers = zip(FULLY_CONNECTED.get(config.backbone, ()), ("fc6", "fc7"), strict=False)
        # The fully connected layers of a classifier do not fit a pyramid's number of bins.
        self.pretrained_layers = {theirs: ours for theirs, ours in layers if not (self._whole and ours == "fc6")}

    def maps(self, images: Tensor) -> Tensor:
        """Return the maps [batch, map_channels, h, w], of stride 16, of normalised images [batch, 3, height, width]."""
        if isinstance(self.backbone, VGG16):
            return self.backbone.before_pools(images)[-1]
        if isinstance(self.backbone, ResNet):
            net = self.backbone
            x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
            x = net.layer3(net.layer2(net.layer1(x)))
            return net.layer4(x) if self._whole else x
        return self.backbone(images)

    def head(self, pooled: Tensor) -> Tensor:
        """Return the features [regions, hidden_features] of pooled regions [regions, map_channels, …]."""
        if isinstance(self.backbone, ResNet) and not self._whole:
            return self.backbone.layer4(pooled).mean(dim=(2, 3))
        x = self.dropout(self.relu(self.fc6(pooled.flatten(1))))
        return self.dropout(self.relu(self.fc7(x)))

    def score_layer(self) -> nn.Linear:
        """Return a layer that scores the classes and, last, the background; its weights are small, as in the papers."""
        return _small(nn.Linear(self.hidden_features, self.num_classes + 1), std=0.01)


def box_layer(features: int, num_classes: int) -> nn.Linear:
    """Return a layer that corrects the boxes of each class; its weights are small, so that it starts with no change."""
    return _small(nn.Linear(features, 4 * num_classes), std=0.001)


def _small(layer: nn.Linear, *, std: float) -> nn.Linear:
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


def usable(proposals: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the proposals [n, 4] clipped to an image of (height, width) `size`, without those outside it."""
    clipped = clip(at_least_float32(proposals), size)
    return clipped[not_empty(clipped)]
