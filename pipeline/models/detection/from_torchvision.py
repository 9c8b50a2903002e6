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

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Literal

import torch
import torchvision
from pydantic import Field, field_validator
from torch import Tensor, nn

from pipeline.models.detection.boxes import Selection
from pipeline.models.detection.detector import DetectionNetwork, DetectorConfig, Randomness, ScoredBoxes, Target


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
            self._scoring_layers = [network.rpn.head, network.roi_heads.box_predictor]
        else:
            network = networks.ssd300_vgg16(**fresh)
            self._scoring_layers = [network.head]
        network.transform.image_mean, network.transform.image_std = [0.0] * 3, [1.0] * 3
        self.network: Any = network

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
        with _autocast_ends_after(self.network.backbone):
            return self.network(list(images), theirs)

    def loosen(self, *, score: float | None = None, iou: float | None = None, limit: int | None = None) -> None:
        """Loosen torchvision's own choice; see `DetectionNetwork.loosen`."""
        chooser: Any = self.network.roi_heads if hasattr(self.network, "roi_heads") else self.network
        if score is not None:
            chooser.score_thresh = min(chooser.score_thresh, score)
        if iou is not None:
            chooser.nms_thresh = max(chooser.nms_thresh, iou)
        if limit is not None:
            chooser.detections_per_img = max(chooser.detections_per_img, limit)

    def score_boxes(self, images: Sequence[Tensor], proposals: Sequence[Tensor] | None = None) -> list[ScoredBoxes]:
        """Return the boxes that torchvision's own thresholds leave in each image; see `DetectionNetwork.score_boxes`.

        torchvision drops scores that are not numbers without a word. If its layers compute any, each image has one box
        with such scores here. In eval mode alone.
        """
        with _watched(self._scoring_layers) as outputs_are_finite, _autocast_ends_after(self.network.backbone):
            outputs = self.network(list(images))
        if not all(outputs_are_finite):
            unknown = images[0].new_full((1, self.num_classes), torch.nan)
            return [ScoredBoxes(images[0].new_zeros(1, 1, 4), unknown) for _ in images]
        found = []
        for output in outputs:
            scores = output["scores"].new_zeros(len(output["scores"]), self.num_classes)
            scores[torch.arange(len(scores)), output["labels"] - 1] = output["scores"]
            found.append(ScoredBoxes(output["boxes"][:, None], scores))
        return found


@contextmanager
def _autocast_ends_after(backbone: nn.Module) -> Iterator[None]:
    """Compute what follows the backbone in float32: anchors and boxes of bfloat16 would have 8 significant bits."""
    thread = threading.get_ident()
    with ExitStack() as stack:

        def end(_: nn.Module, __: object, outputs: dict[str, Tensor]) -> dict[str, Tensor] | None:
            if threading.get_ident() != thread:
                return None
            maps = {name: features.float() for name, features in outputs.items()}
            stack.enter_context(torch.autocast(next(iter(maps.values())).device.type, enabled=False))
            return maps

        stack.callback(backbone.register_forward_hook(end).remove)
        yield


@contextmanager
def _watched(layers: Sequence[nn.Module]) -> Iterator[list[bool]]:
    """Return a list to which each call of one of the layers adds whether its outputs are finite."""
    are_finite: list[bool] = []
    thread = threading.get_ident()  # another one may compute another batch

    def look(_: nn.Module, __: object, outputs: object) -> None:
        if threading.get_ident() == thread:
            are_finite.extend(bool(torch.isfinite(tensor).all()) for tensor in _tensors(outputs))

    handles = [layer.register_forward_hook(look) for layer in layers]
    try:
        yield are_finite
    finally:
        for handle in handles:
            handle.remove()


def _tensors(outputs: object) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and dicts."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, dict):
        yield from _tensors(list(outputs.values()))
    elif isinstance(outputs, list | tuple):
        for one in outputs:
            yield from _tensors(one)
