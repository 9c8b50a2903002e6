"""Patch classification by sliding window: what segmentation was before FCN.

A classifier (AlexNet or VGG16 with its fully connected layers) looks at the window around each 32nd pixel and names
the class of the window's centre (as in Ciresan et al., NIPS 2012). Here as a baseline that really slides, and as the
same network convolutionalized, which gives the same scores (`dense=true`): see `convolutionalize`.

    image -> windows of 355 (AlexNet) or 404 (VGG16) pixels, every 32 -> convolutions without padding -> fc 4096
      -> fc 4096 -> scores: one unit of the map each

Parameters at 21 classes: 57.1 M (AlexNet), 134.35 M (VGG16). Output stride 32. Both take torchvision's published
weights. The image is continued by its mean colour, so that windows at its border are whole.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.backbones.alexnet import AlexNet
from pipeline.models.backbones.vgg import VGG16
from pipeline.models.config import ModelConfig
from pipeline.models.convolutionalize import without_padding
from pipeline.models.layers import SegmentationOutput, kaiming, scaled
from pipeline.models.receptive_field import receptive_field

STRIDE = 32


class SlidingWindowConfig(ModelConfig):
    """`classifier`: alexnet or vgg16. `dense`: the same network, convolutionalized."""

    paper: ClassVar[str] = "Ciresan et al., NIPS 2012"

    classifier: Literal["alexnet", "vgg16"] = "alexnet"
    dense: bool = False

    def build(self, num_classes: int) -> "SlidingWindow":
        return SlidingWindow(num_classes=num_classes, **self.model_dump())


class SlidingWindow(nn.Module):
    """A patch classifier at every 32nd pixel; see the module's text.

    Args:
        num_classes: channels of the score maps.
        classifier: "alexnet" or "vgg16".
        dense: run it as one convolutional network.
        width: multiplies every layer's channels.

    Attributes:
        window: side of the classifier's window in pixels.
    """

    output_stride = STRIDE

    def __init__(
        self,
        *,
        num_classes: int,
        classifier: Literal["alexnet", "vgg16"] = "alexnet",
        dense: bool = False,
        width: float = 1.0,
    ):
        super().__init__()
        self._dense = dense
        alexnet = classifier == "alexnet"
        self.backbone = without_padding(AlexNet(width=width) if alexnet else VGG16(width=width))
        channels, hidden = scaled(256 if alexnet else 512, width), scaled(4096, width)
        # Fully connected layers, written as the convolutions that they are: on one window each gives one unit.
        self.classifier = nn.Sequential(
            nn.Conv2d(channels, hidden, 6 if alexnet else 7),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(hidden, num_classes, 1),
        )
        kaiming(self.classifier, mode="fan_in")
        self.window = receptive_field([self.backbone, self.classifier])
        if alexnet:  # torchvision's positions, where dropout comes first
            self.pretrained_layers = {"classifier.1": "classifier.0", "classifier.4": "classifier.3"}

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Scores of normalised images [batch, 3, height, width], any size from 1x1."""
        rows, columns = (-(-n // STRIDE) for n in images.shape[-2:])
        before = (self.window - STRIDE) // 2
        bottom, right = (
            (units - 1) * STRIDE + self.window - before - n
            for units, n in zip((rows, columns), images.shape[-2:], strict=True)
        )
        padded = F.pad(images, (before, right, before, bottom))
        return SegmentationOutput(self._score(padded) if self._dense else self._slide(padded))

    def _score(self, images: Tensor) -> Tensor:
        return self.classifier(self.backbone.features(images))

    def _slide(self, padded: Tensor) -> Tensor:
        """Every window by itself, a row of them at a time."""
        windows = padded.unfold(2, self.window, STRIDE).unfold(3, self.window, STRIDE)
        rows = []
        for row in windows.unbind(dim=2):  # [batch, 3, columns, window, window]
            scores = self._score(row.transpose(1, 2).flatten(0, 1))
            rows.append(scores.view(len(padded), -1, scores.shape[1]))
        return torch.stack(rows).permute(1, 3, 0, 2)
