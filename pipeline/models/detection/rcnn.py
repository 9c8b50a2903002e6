"""R-CNN: regions with CNN features.

Girshick, Donahue, Darrell & Malik, "Rich Feature Hierarchies for Accurate Object Detection and Semantic Segmentation",
CVPR 2014.

    each proposal, warped to 227x227 with 16 pixels of context -> AlexNet -> pool5 6x6 -> fc6 4096 -> fc7 4096
      -> softmax, K + 1 (fine-tuning) | K linear SVMs on fc7 | box regression on pool5

What it introduced over sliding windows with hand-made features: about 2000 category-independent proposals (selective
search) are classified by a deep network that was trained for classification elsewhere and is fine-tuned on warped
proposals; linear SVMs per class on its features; regression of the box from pool5 (appendix C). Each proposal costs a
pass of the whole network, 13 s per image on the paper's GPU.

Parameters with AlexNet at 20 classes: 57,089,877, without the SVMs and regressors. A crop is 227 pixels wide with
AlexNet and 224 with VGG16 and the ResNets.

Deviations: AlexNet in torchvision's form (see `backbones.alexnet`); the SVMs use fc7 with its ReLU, as the released
code does. A batch of 2 images gives 64 regions each, where the paper draws 128 from all images.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.detection.boxes import Selection
from pipeline.models.detection.inputs import at_least_float32
from pipeline.models.detection.region_network import RegionConfig
from pipeline.models.detection.staged import SVM_SELECTION, RegionFeatures, StagedNetwork

CONTEXT = 16  # pixels of a crop on each side of the proposal (appendix A)


class RCNNConfig(RegionConfig):
    """Configuration of R-CNN."""

    paper: ClassVar[str] = "Girshick, Donahue, Darrell & Malik, CVPR 2014"
    staged: ClassVar[bool] = True
    selection: ClassVar[Selection] = SVM_SELECTION

    crop: int = Field(default=227, ge=64, description="side of a warped proposal in pixels: 227 for AlexNet, else 224")
    context: int = Field(
        default=CONTEXT, ge=0, le=31, description="pixels of a warped proposal on each side that are outside of the box"
    )
    regions: int = Field(default=64, ge=1, description="number of regions of an image in a training step")
    chunk: int = Field(default=128, ge=1, description="number of warped proposals that are computed at once")

    def build(self, num_classes: int) -> "RCNN":
        """Return an R-CNN with fresh weights."""
        return RCNN(self, num_classes=num_classes)


class RCNN(StagedNetwork):
    """R-CNN on AlexNet, VGG16 or a ResNet."""

    def __init__(self, config: RCNNConfig, *, num_classes: int):
        super().__init__(config, num_classes=num_classes, regions=config.regions)
        self._crop, self._context, self._chunk = config.crop, config.context, config.chunk

    def forward(self, crops: Tensor) -> RegionFeatures:
        """Return the features of warped proposals [n, 3, crop, crop]."""
        # At the papers' sizes this is the classifier's own pool after its last convolution; for a ResNet, no change.
        pooled = F.adaptive_max_pool2d(self.maps(crops), self.side)
        return RegionFeatures(pooled.flatten(1), self.head(pooled))

    def features(self, image: Tensor, regions: Tensor) -> RegionFeatures:
        """Return the features of regions of an image; see `StagedNetwork.features`."""
        parts = [
            self(warped(image, some, side=self._crop, context=self._context)) for some in regions.split(self._chunk)
        ]
        return RegionFeatures(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def warped(image: Tensor, regions: Tensor, *, side: int, context: int) -> Tensor:
    """Return regions warped to squares by bilinear interpolation, with context around them (appendix A).

    A region fills the square but for `context` pixels on each side, which show the image around it. What lies outside
    of the image is zero, the mean colour.

    Args:
        image: Normalised image [3, height, width].
        regions: Regions [n, 4] of positive area.
        side: Height and width of the squares.
        context: Pixels of a square on each side that are outside of the region.

    Returns:
        [n, 3, side, side].
    """
    height, width = image.shape[1:]
    # Centres of the pixels of a square, in units of the region: 0..1 between the context.
    precise = at_least_float32(image)
    places = (torch.arange(side, device=image.device, dtype=precise.dtype) + 0.5 - context) / (side - 2 * context)
    sides = regions[:, 2:] - regions[:, :2]
    x, y = (regions[:, axis, None] + places * sides[:, axis, None] for axis in (0, 1))
    grid = torch.stack(
        torch.broadcast_tensors(x[:, None] * 2 / width - 1, y[:, :, None] * 2 / height - 1), dim=-1
    )  # [n, side, side, 2], in grid_sample's units of -1..1
    rows = F.grid_sample(precise[None], grid.flatten(0, 1)[None].to(precise), align_corners=False)
    return rows[0].unflatten(1, (len(regions), side)).transpose(0, 1).to(image)
