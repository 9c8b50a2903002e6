"""The ensemble of DeconvNet and FCN-8s.

Noh, Hong & Han, ICCV 2015, section 4.4 ("EDeconvNet"): DeconvNet captures the shape of objects, FCN the context of the
whole image, and they make different errors (VOC 2012: 69.6 and 62.2 alone, 71.7 together).

    mean      the mean of the class probabilities of the two networks, as in the paper
    product   the product of their scores, with negative scores set to zero, as in the authors' code; softmax follows

Parameters at 21 classes: 386.2 M. Output stride 1. The two networks are trained separately and joined by
`segpipe ensemble`.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.models.config import ModelConfig
from pipeline.models.deconvnet import DeconvNet, DeconvNetConfig
from pipeline.models.fcn import FCN, FCNConfig, Geometry
from pipeline.models.layers import SegmentationOutput
from pipeline.models.upsampling import upsample

Fusion = Literal["mean", "product"]


class EnsembleConfig(ModelConfig):
    """Configuration of the ensemble of DeconvNet and FCN-8s; the width applies to both."""

    paper: ClassVar[str] = "Noh, Hong & Han, ICCV 2015"
    min_training_batch: ClassVar[int] = 2

    fusion: Fusion = Field(
        default="mean",
        description='"mean" of the class probabilities, or "product" of the scores with negative scores set to zero',
    )
    geometry: Geometry = Field(default="plain", description='geometry of the FCN-8s, as in `fcn`: "plain" or "paper"')
    at_once: bool = Field(default=False, description="scale the skips of the FCN-8s, as in `fcn`")

    def build(self, num_classes: int) -> "Ensemble":
        """Return both networks with fresh weights."""
        return Ensemble(self, num_classes=num_classes)


class Ensemble(nn.Module):
    """DeconvNet and FCN-8s, fused."""

    output_stride = 1

    def __init__(self, config: EnsembleConfig, *, num_classes: int):
        super().__init__()
        self._fusion = config.fusion
        deconvnet = DeconvNetConfig(width=config.width)
        fcn = FCNConfig(stride=8, geometry=config.geometry, at_once=config.at_once, width=config.width)
        self.deconvnet = DeconvNet(deconvnet, num_classes=num_classes)
        self.fcn = FCN(fcn, num_classes=num_classes)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Return the fused scores of normalised images [batch, 3, height, width] of any size from 1x1.

        With the fusion "mean", their softmax is the mean probability.
        """
        first = self.deconvnet(images).logits
        size = (images.shape[-2], images.shape[-1])
        second = upsample(self.fcn(images).logits, size, stride=self.fcn.output_stride)
        if self._fusion == "product":
            return SegmentationOutput(first.clamp(min=0) * second.clamp(min=0))
        log_p = torch.stack([first.log_softmax(dim=1), second.log_softmax(dim=1)])
        return SegmentationOutput(log_p.logsumexp(dim=0))  # log(p + q); softmax cancels the missing factor 1/2
