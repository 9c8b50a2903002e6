"""The ensemble of DeconvNet and FCN-8s.

Noh, Hong & Han, ICCV 2015, section 4.4 ("EDeconvNet"): DeconvNet gets the shape of objects, FCN the context of the
whole image, and they err differently (VOC 2012: 69.6 and 62.2 alone, 71.7 together).

    mean      of the two networks' class probabilities, as in the paper
    product   of their scores, negative ones set to zero, as in the authors' code; the softmax follows

Parameters at 21 classes: 386.2 M. Output stride 1. Both are trained by themselves and joined by `jobs/ensemble.py`.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pipeline.models.config import ModelConfig
from pipeline.models.deconvnet import DeconvNet
from pipeline.models.fcn import FCN, Geometry
from pipeline.models.layers import SegmentationOutput
from pipeline.models.upsampling import upsample

Fusion = Literal["mean", "product"]


class EnsembleConfig(ModelConfig):
    """`fusion`: mean (of probabilities) or product (of clamped scores). `geometry` and `at_once` are FCN-8s's, the
    width is both networks'."""

    paper: ClassVar[str] = "Noh, Hong & Han, ICCV 2015"
    min_training_batch: ClassVar[int] = 2

    fusion: Fusion = "mean"
    geometry: Geometry = "plain"
    at_once: bool = False

    def build(self, num_classes: int) -> "Ensemble":
        return Ensemble(num_classes=num_classes, **self.model_dump())


class Ensemble(nn.Module):
    """DeconvNet and FCN-8s; see the module's text.

    Args:
        num_classes: channels of the score maps.
        fusion: "mean" or "product".
        geometry: FCN's, "plain" or "paper".
        at_once: FCN's skips are scaled.
        width: multiplies every layer's channels.
    """

    output_stride = 1

    def __init__(
        self,
        *,
        num_classes: int,
        fusion: Fusion = "mean",
        geometry: Geometry = "plain",
        at_once: bool = False,
        width: float = 1.0,
    ):
        super().__init__()
        self._fusion = fusion
        self.deconvnet = DeconvNet(num_classes=num_classes, width=width)
        self.fcn = FCN(num_classes=num_classes, stride=8, geometry=geometry, at_once=at_once, width=width)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Scores of normalised images [batch, 3, height, width], any size from 1x1; their softmax is the fused
        probability."""
        first = self.deconvnet(images).logits
        size = (images.shape[-2], images.shape[-1])
        second = upsample(self.fcn(images).logits, size, stride=self.fcn.output_stride)
        if self._fusion == "product":
            return SegmentationOutput(first.clamp(min=0) * second.clamp(min=0))
        log_p = torch.stack([first.log_softmax(dim=1), second.log_softmax(dim=1)])
        return SegmentationOutput(log_p.logsumexp(dim=0))  # log(p + q); the half is the same for every class
