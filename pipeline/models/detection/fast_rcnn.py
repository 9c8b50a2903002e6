r"""Fast R-CNN: one network that classifies all regions of an image and corrects their boxes.

Girshick, "Fast R-CNN", ICCV 2015.

    image, short side 600 -> VGG16 to conv5_3 -> map /16 -\
    proposals ---------------------------------------------> RoI max-pooling 7x7 -> fc6 4096 -> fc7 4096
      -> softmax, K + 1 | boxes, 4 K

What it introduced over SPPNet: the pyramid is reduced to one level, and gradients flow through it into the
convolutions; a softmax replaces the SVMs, and a layer beside it the separate box regressors, so one loss trains the
whole network in one stage (section 2.3), without a cache of features. 2 images give 64 regions each, which share the
convolutions (sections 2.3; `sampling`).

Parameters with VGG16 at 20 classes: 134,674,341. The map of stride 16 is pooled to 7x7 (VGG16), 6x6 (AlexNet), or
14x14 before layer4 (ResNets).

Deviations: the background has no box (the released network predicts one and ignores it); it is the last score. The
truncated SVD of fc6 and fc7 (section 3.1) is omitted. Box targets are divided by fixed scales (0.1, 0.1, 0.2, 0.2), as
in the successors' code, in place of the standard deviations over the training set.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
import torchvision
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.detection.boxes import Selection, clip, decode, encode
from pipeline.models.detection.detector import Randomness, ScoredBoxes, Target, generators
from pipeline.models.detection.inputs import (
    at_least_float32,
    image_size,
    none,
    padded,
    resized,
    scaled_boxes,
    with_short_side,
)
from pipeline.models.detection.region_network import STRIDE, RegionConfig, RegionNetwork, box_layer, usable
from pipeline.models.detection.sampling import FAST_RCNN, sample_regions

TARGET_SCALES = (0.1, 0.1, 0.2, 0.2)  # x, y, width, height
CHUNK = 256  # regions of an image that are computed at a time when it is searched for objects


class FastRCNNConfig(RegionConfig):
    """Configuration of Fast R-CNN."""

    paper: ClassVar[str] = "Girshick, ICCV 2015"
    selection: ClassVar[Selection] = Selection(score=0.05, iou=0.3)

    short_side: int = Field(
        default=600, ge=32, description="short side of the image, in pixels, as the network sees it"
    )
    longest_side: int = Field(default=1000, ge=32, description="largest long side of the image as the network sees it")
    regions: int = Field(default=64, ge=1, description="number of regions of an image in a training step")

    def build(self, num_classes: int) -> "FastRCNN":
        """Return a Fast R-CNN with fresh weights."""
        return FastRCNN(self, num_classes=num_classes)


class FastRCNNOutput(NamedTuple):
    """The output of Fast R-CNN.

    Attributes:
        logits: Unnormalised scores of the classes and, last, the background, [regions, classes + 1].
        deltas: Corrections of the boxes in units of `TARGET_SCALES`, [regions, classes, 4].
    """

    logits: Tensor
    deltas: Tensor


class FastRCNN(RegionNetwork):
    """Fast R-CNN on AlexNet, VGG16 or a ResNet."""

    def __init__(self, config: FastRCNNConfig, *, num_classes: int):
        super().__init__(config, num_classes=num_classes, selection=config.selection)
        self._sides = (config.short_side, config.longest_side)
        self._rule = FAST_RCNN._replace(regions=config.regions)
        self.score = self.score_layer()
        self.box = box_layer(self.hidden_features, num_classes)

    def forward(self, images: Tensor, regions: Sequence[Tensor]) -> FastRCNNOutput:
        """Return the scores and corrections of the regions [n, 4] of each of the images [batch, 3, height, width]."""
        return self.of_maps(self.maps(images), regions)

    def of_maps(self, maps: Tensor, regions: Sequence[Tensor]) -> FastRCNNOutput:
        """Return the scores and corrections of the regions [n, 4] of each of the maps [batch, map_channels, h, w]."""
        hidden = self.head(roi_pool(maps, regions, self.side))
        return FastRCNNOutput(self.score(hidden), self.box(hidden).unflatten(1, (self.num_classes, 4)))

    def losses(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target],
        proposals: Sequence[Tensor] | None = None,
        *,
        rng: Randomness,
    ) -> dict[str, Tensor]:
        """Return the losses "classes" and "boxes" of sampled regions; see `DetectionNetwork.losses`."""
        inputs, regions, labels, matched = [], [], [], []
        own = generators(rng, len(images))
        for image, target, boxes, some in zip(images, targets, proposals or none(images), own, strict=True):
            size = image_size(image)
            seen = with_short_side(size, *self._sides)
            sample = sample_regions(
                usable(boxes, size).numpy(force=True),
                target.boxes.numpy(force=True),
                target.labels.numpy(force=True),
                num_classes=self.num_classes,
                rule=self._rule,
                rng=some,
            )
            inputs.append(resized(image, seen))
            regions.append(scaled_boxes(torch.from_numpy(sample.boxes).to(image.device), size, seen))
            matched.append(scaled_boxes(torch.from_numpy(sample.matched).to(image.device), size, seen))
            labels.append(torch.from_numpy(sample.labels).to(image.device))
        output = self(padded(inputs), regions)
        logits = at_least_float32(output.logits)
        weights = [logits.new_full((len(region),), 1 / max(len(region), 1) / len(images)) for region in regions]
        wanted = encode(torch.cat(matched), torch.cat(regions))
        return fast_rcnn_loss(output, torch.cat(labels), wanted, torch.cat(weights))

    def score_boxes(self, images: Sequence[Tensor], proposals: Sequence[Tensor] | None = None) -> list[ScoredBoxes]:
        """Return the scored boxes in each image; see `DetectionNetwork.score_boxes`.

        A few regions are computed at a time, because 2000 pooled ones of a ResNet take 1.6 GB.
        """
        sizes = [image_size(image) for image in images]
        seen = [with_short_side(size, *self._sides) for size in sizes]
        maps = self.maps(padded([resized(*pair) for pair in zip(images, seen, strict=True)]))
        found = []
        for i, boxes in enumerate(proposals or none(images)):
            own = usable(boxes, sizes[i])
            parts = [
                self.of_maps(maps[i : i + 1], [scaled_boxes(some, sizes[i], seen[i])]) for some in own.split(CHUNK)
            ]
            output = FastRCNNOutput(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
            scores = at_least_float32(output.logits).softmax(dim=1)[:, :-1]
            deltas = at_least_float32(output.deltas)
            deltas = deltas * deltas.new_tensor(TARGET_SCALES)
            found.append(ScoredBoxes(clip(decode(deltas, own.to(deltas)[:, None]), sizes[i]), scores))
        return found


def roi_pool(maps: Tensor, regions: Sequence[Tensor], side: int, stride: int = STRIDE) -> Tensor:
    """Return the regions of maps, max-pooled to a fixed size (section 2.1).

    Args:
        maps: Maps [batch, channels, h, w].
        regions: Regions [n, 4] of each map, in pixels of the image.
        side: Height and width of a pooled region.
        stride: Pixels of the image per unit of the map.

    Returns:
        [regions, channels, side, side]; zero in bins outside the map.
    """
    # The operator rounds the first and the last pixel of a region to units of the map, and includes both.
    precise = at_least_float32(maps)
    inside = [(region - region.new_tensor([0, 0, 1, 1])).to(precise) for region in regions]
    return torchvision.ops.roi_pool(precise, inside, side, 1 / stride).to(maps)


def fast_rcnn_loss(output: FastRCNNOutput, labels: Tensor, targets: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Return the two terms of the multi-task loss (section 2.3, equations 1 to 3, lambda = 1).

    Both are weighted sums over the regions; zero if there are none.

    Args:
        output: Output of the network.
        labels: Class of each region, or the number of classes for the background, int64 [regions].
        targets: Box targets of `boxes.encode`, [regions, 4]; those of the background do not count.
        weights: Weight of each region, [regions]; in the paper, 1 / regions.

    Returns:
        "classes", the cross entropy, and "boxes", the smooth L1 loss of the true class's box.
    """
    classes = (F.cross_entropy(at_least_float32(output.logits), labels, reduction="none") * weights).sum()
    positive = torch.nonzero(labels < output.deltas.shape[1])[:, 0]
    found = at_least_float32(output.deltas[positive, labels[positive]])
    wanted = targets[positive] / targets.new_tensor(TARGET_SCALES)
    boxes = F.smooth_l1_loss(found, wanted, reduction="none").sum(dim=1) * weights[positive]
    return {"classes": classes, "boxes": boxes.sum()}
