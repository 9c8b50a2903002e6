"""Patch classification by a sliding window: how networks segmented before FCN.

A classifier (AlexNet or VGG16 with its fully connected layers) sees the window around every 32nd pixel and predicts
the class at its centre (as in Ciresan et al., NIPS 2012). This baseline runs the classifier on each window in turn;
with `dense=true` it runs the same network as convolutions over the whole image, with the same scores (see
`convolutionalize`).

    image -> windows of 355 (AlexNet) or 404 (VGG16) pixels, every 32 -> convolutions without padding -> fc 4096
      -> fc 4096 -> scores: one unit of the map per window

Parameters at 21 classes: 57.1 M (AlexNet), 134.35 M (VGG16). Output stride 32. Both take torchvision's published
weights. The image is padded with the mean colour, so that windows at its border are complete.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
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
    """Configuration of the sliding-window classifier."""

    paper: ClassVar[str] = "Ciresan et al., NIPS 2012"

    classifier: Literal["alexnet", "vgg16"] = Field(
        default="alexnet", description='network that classifies each window: "alexnet" or "vgg16"'
    )
    dense: bool = Field(default=False, description="run the classifier as convolutions over the whole image")

    def build(self, num_classes: int) -> "SlidingWindow":
        """Return a sliding-window classifier with fresh weights."""
        return SlidingWindow(self, num_classes=num_classes)


class SlidingWindow(nn.Module):
    """A patch classifier applied at every 32nd pixel.

    Attributes:
        window: Side of the classifier's window in pixels.
    """

    output_stride = STRIDE

    def __init__(self, config: SlidingWindowConfig, *, num_classes: int):
        super().__init__()
        self._dense = config.dense
        alexnet = config.classifier == "alexnet"
        self.backbone = without_padding(AlexNet(width=config.width) if alexnet else VGG16(width=config.width))
        channels, hidden = scaled(256 if alexnet else 512, config.width), scaled(4096, config.width)
        # The fully connected layers, as convolutions that map one window to one unit.
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
        if alexnet:  # torchvision's AlexNet has dropout before each fully connected layer
            self.pretrained_layers = {"classifier.1": "classifier.0", "classifier.4": "classifier.3"}

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the scores of normalised images [batch, 3, height, width] of any size from 1x1."""
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
        """Return the scores of each window on its own, one row of windows per pass."""
        windows = padded.unfold(2, self.window, STRIDE).unfold(3, self.window, STRIDE)
        rows = []
        for row in windows.unbind(dim=2):  # [batch, 3, columns, window, window]
            scores = self._score(row.transpose(1, 2).flatten(0, 1))
            rows.append(scores.view(len(padded), -1, scores.shape[1]))
        return torch.stack(rows).permute(1, 3, 0, 2)
