"""torchvision's Faster R-CNN and SSD behind the interface of our detectors.

Ren, He, Girshick & Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NIPS 2015;
here on ResNet-50 with a feature pyramid (Lin et al., CVPR 2017). What it introduced over Fast R-CNN: a small network on
the same map proposes the regions, from anchors of several scales and shapes, so proposals cost little and are learned.
41,449,656 parameters at 20 classes.

Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016; here SSD300 on VGG16. What it introduced over YOLO: boxes
are predicted from maps of several resolutions, relative to default boxes of several shapes at each unit, by
convolutions in place of fully connected layers. 26,285,486 parameters at 20 classes.

The networks, their losses and their sizes of the image are torchvision's own. They have no width: a network of another
width would not be torchvision's. Images are normalised before, as for our networks, so torchvision's own normalisation
is switched off.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torchvision
from pydantic import Field, field_validator
from torch import Tensor, nn

from pipeline.models.detection.boxes import DetectorOutput, Selection, select
from pipeline.models.detection.detector import DetectionNetwork, DetectorConfig, Randomness, Target


class TorchvisionConfig(DetectorConfig):
    """Configuration of a detector of torchvision."""

    paper: ClassVar[str] = "Ren et al., NIPS 2015; Liu et al., ECCV 2016"
    takes_proposals: ClassVar[bool] = False
    selection: ClassVar[Selection] = Selection(score=0.05, iou=0.5)

    network: Literal["faster_rcnn", "ssd"] = Field(
        default="faster_rcnn", description='"faster_rcnn" (ResNet-50 with a feature pyramid) or "ssd" (SSD300 on VGG16)'
    )
    short_side: int = Field(
        default=800, ge=32, description="short side of the image in pixels as Faster R-CNN sees it; SSD sees 300x300"
    )
    longest_side: int = Field(
        default=1333, ge=32, description="largest long side of the image in pixels as Faster R-CNN sees it"
    )

    @field_validator("width")
    @classmethod
    def _own_width(cls, width: float) -> float:
        if width != 1.0:
            raise ValueError("torchvision's detectors have no other width than 1")
        return width

    def build(self, num_classes: int) -> "TorchvisionDetector":
        """Return a detector with fresh weights."""
        return TorchvisionDetector(self, num_classes=num_classes)


class TorchvisionDetector(DetectionNetwork):
    """A detector of torchvision."""

    def __init__(self, config: TorchvisionConfig, *, num_classes: int):
        super().__init__(num_classes=num_classes, selection=config.selection)
        networks = torchvision.models.detection
        fresh = {"weights": None, "weights_backbone": None, "num_classes": num_classes + 1}
        if config.network == "faster_rcnn":
            sides = {"min_size": config.short_side, "max_size": config.longest_side}
            network = networks.fasterrcnn_resnet50_fpn(**fresh, **sides)
        else:
            network = networks.ssd300_vgg16(**fresh)
        network.transform.image_mean, network.transform.image_std = [0.0] * 3, [1.0] * 3
        self.network: nn.Module = network

    def losses(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target],
        proposals: Sequence[Tensor] | None = None,
        *,
        rng: Randomness,
    ) -> dict[str, Tensor]:
        """Return torchvision's losses, in train mode alone; see `DetectionNetwork.losses`.

        torchvision samples anchors by PyTorch's global generator, not by `rng`, and divides some terms by the number of
        anchors in the whole batch.
        """
        # torchvision's class 0 is the background.
        theirs = [{"boxes": target.boxes, "labels": target.labels + 1} for target in targets]
        return self.network(list(images), theirs)

    def detect(
        self,
        images: Sequence[Tensor],
        proposals: Sequence[Tensor] | None = None,
        *,
        selection: Selection | None = None,
    ) -> list[DetectorOutput]:
        """Return the detections in each image, in eval mode alone; see `DetectionNetwork.detect`.

        The choice is made among the detections that torchvision's own thresholds leave.
        """
        chosen = selection or self.selection
        found = []
        for output in self.network(list(images)):
            scores = output["scores"].new_zeros(len(output["scores"]), self.num_classes)
            scores[torch.arange(len(scores)), output["labels"] - 1] = output["scores"]
            found.append(select(output["boxes"][:, None], scores, chosen))
        return found
