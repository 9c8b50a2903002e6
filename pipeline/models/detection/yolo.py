"""YOLO (version 1), full and fast: one pass over the image predicts all boxes.

Redmon, Divvala, Girshick & Farhadi, "You Only Look Once: Unified, Real-Time Object Detection", CVPR 2016.

    full   448x448 -> 24 convolutions (figure 3) -> 7x7, 1024 -> fc 4096 -> fc 7·7·(B·5 + K)
    fast   448x448 -> 9 convolutions             -> 7x7, 1024 -> fc 256 -> fc 4096 -> fc 7·7·(B·5 + K)

What it introduced over the R-CNN family: no proposals. Detection is one regression from the image: the cell of a 7x7
grid in which the centre of an object falls predicts B boxes, the confidence of each (probability of an object times
IoU), and one set of class probabilities. The network sees the whole image, so it takes background for objects less
often, and runs at 45 frames per second (fast: 155). It misses small objects in groups, because a cell has one class.

Each box has its centre in units of the cell, and the square roots of its width and height in units of the image
(section 2.2 and the released code), so its sides are the squares of the outputs. All activations are leaky (0.1), but
the layers of 256 and the last one are linear. Dropout of 0.5 follows the layer of 4096.

Parameters at S = 7, B = 2, K = 20: 271,703,550 (full), 45,089,374 (fast); 1470 outputs.

The convolutions are in `backbones/yolo.py`; `yolo_classifier.py` is the classifier that they start from (section 2.2).

Deviations: any image is resized to 448x448. The layers of the fast network, of which the paper gives only their number,
are those of the released configuration. `batch_norm` adds batch normalisation after each convolution, which the paper
does not have, for training without pretrained weights.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.models.backbones.yolo import SLOPE, Variant, convolutions, initialise
from pipeline.models.detection.boxes import Selection, clip
from pipeline.models.detection.detector import DetectionNetwork, DetectorConfig, Randomness, ScoredBoxes, Target
from pipeline.models.detection.inputs import at_least_float32, image_size, resized
from pipeline.models.detection.sampling import grid_targets
from pipeline.models.layers import scaled

STRIDE = 64


class YOLOConfig(DetectorConfig):
    """Configuration of YOLO."""

    paper: ClassVar[str] = "Redmon, Divvala, Girshick & Farhadi, CVPR 2016"
    takes_proposals: ClassVar[bool] = False
    selection: ClassVar[Selection] = Selection(score=0.001, iou=0.5)

    variant: Variant = Field(default="full", description='24 convolutions ("full") or 9 ("fast")')
    grid: int = Field(default=7, ge=1, le=64, description="number of cells in a row; the image has 64 pixels per cell")
    boxes: int = Field(default=2, ge=1, le=100, description="number of boxes that a cell predicts")
    batch_norm: bool = Field(default=False, description="batch normalisation after each convolution; not in the paper")

    def build(self, num_classes: int) -> "YOLO":
        """Return a YOLO with fresh weights."""
        return YOLO(self, num_classes=num_classes)


class YOLOOutput(NamedTuple):
    """The output of YOLO, by rows and columns of the grid.

    Attributes:
        boxes: Centre x and y from the cell's corner in units of the cell, and square roots of width and height in units
            of the image, [batch, S, S, B, 4].
        confidences: Confidences of the boxes, [batch, S, S, B].
        classes: Class probabilities of the cells, [batch, S, S, classes].
    """

    boxes: Tensor
    confidences: Tensor
    classes: Tensor


class YOLO(DetectionNetwork):
    """YOLO, version 1."""

    def __init__(self, config: YOLOConfig, *, num_classes: int):
        super().__init__(num_classes=num_classes, selection=config.selection)
        self.grid, self.boxes = config.grid, config.boxes
        self.features, channels = convolutions(
            config.variant, detection=True, width=config.width, batch_norm=config.batch_norm
        )
        inputs = channels * config.grid**2
        head: list[nn.Module] = []
        if config.variant == "fast":
            bottleneck = scaled(256, config.width)
            head.append(nn.Linear(inputs, bottleneck))
            inputs = bottleneck
        hidden = scaled(4096, config.width)
        last = nn.Linear(hidden, config.grid**2 * (config.boxes * 5 + num_classes))
        head += [nn.Linear(inputs, hidden), nn.LeakyReLU(SLOPE, inplace=True), nn.Dropout(0.5), last]
        self.head = nn.Sequential(*head)
        initialise(self.head)
        nn.init.normal_(last.weight, std=0.001)  # predictions near 0, from which training soon finds their means

    @property
    def side(self) -> int:
        """Height and width of the images that the network sees."""
        return self.grid * STRIDE

    def forward(self, images: Tensor) -> YOLOOutput:
        """Return the predictions for normalised images [batch, 3, side, side]."""
        flat = self.head(self.features(images).flatten(1))
        cells = flat.unflatten(1, (self.grid, self.grid, -1))
        boxes = cells[..., : self.boxes * 5].unflatten(3, (self.boxes, 5))
        return YOLOOutput(boxes[..., :4], boxes[..., 4], cells[..., self.boxes * 5 :])

    def losses(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target],
        proposals: Sequence[Tensor] | None = None,
        *,
        rng: Randomness,
    ) -> dict[str, Tensor]:
        """Return the losses "boxes", "confidences" and "classes"; see `DetectionNetwork.losses` and `yolo_loss`."""
        grids = [
            grid_targets(
                target.boxes.numpy(force=True),
                target.labels.numpy(force=True),
                size=image_size(image),
                grid=self.grid,
            )
            for image, target in zip(images, targets, strict=True)
        ]
        output = self(self._batch(images))
        boxes = torch.from_numpy(np.stack([g.boxes for g in grids])).to(output.boxes)
        labels = torch.from_numpy(np.stack([g.labels for g in grids])).to(output.boxes.device)
        return yolo_loss(output, boxes, labels)

    def score_boxes(self, images: Sequence[Tensor], proposals: Sequence[Tensor] | None = None) -> list[ScoredBoxes]:
        """Return the scored boxes in each image; see `DetectionNetwork.score_boxes`.

        A score is the product of a class probability and a confidence (section 2, equation 1).
        """
        output = YOLOOutput(*(at_least_float32(part) for part in self(self._batch(images))))
        scores = (output.classes[:, :, :, None] * output.confidences[..., None]).flatten(1, 3)
        relative = cell_boxes(output.boxes).flatten(1, 3)
        found = []
        for image, own, own_scores in zip(images, relative, scores, strict=True):
            height, width = image_size(image)
            boxes = clip(own * own.new_tensor([width, height, width, height]), (height, width))
            found.append(ScoredBoxes(boxes[:, None], own_scores))
        return found

    def _batch(self, images: Sequence[Tensor]) -> Tensor:
        return torch.stack([resized(image, (self.side, self.side)) for image in images])


def cell_boxes(boxes: Tensor) -> Tensor:
    """Return the predicted boxes [batch, S, S, B, 4] of `YOLOOutput` as left, top, right, bottom in units of the image.

    Sides are squares of outputs, so they are never negative.
    """
    grid = boxes.shape[1]
    places = torch.arange(grid, device=boxes.device, dtype=boxes.dtype)
    x = (boxes[..., 0] + places[:, None]) / grid
    y = (boxes[..., 1] + places[:, None, None]) / grid
    centres, sides = torch.stack([x, y], dim=-1), boxes[..., 2:].square()
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)


def yolo_loss(
    output: YOLOOutput, boxes: Tensor, labels: Tensor, *, coordinates: float = 5.0, no_object: float = 0.5
) -> dict[str, Tensor]:
    """Return the terms of the loss (section 2.2, equation 3), each the mean over the images of a sum of squares.

    In a cell with an object, the predicted box of the largest IoU with it is responsible for it; if none overlaps, the
    one whose corners are nearest. The confidence of a responsible box should be that IoU, which is taken as a constant;
    the confidences of all other boxes, in all cells, should be zero.

    Args:
        output: Output of the network.
        boxes: True box of each cell as left, top, right, bottom in units of the image, [batch, S, S, 4].
        labels: Its class, or -1 in a cell without an object, int64 [batch, S, S].
        coordinates: Weight of the boxes, lambda_coord.
        no_object: Weight of the confidences of boxes without an object, lambda_noobj.

    Returns:
        "boxes", the first two lines of the equation; "confidences", the next two; "classes", the last.
    """
    output = YOLOOutput(*(at_least_float32(part) for part in output))
    count, grid = len(labels), labels.shape[1]
    with torch.no_grad():
        predicted = cell_boxes(output.boxes)
        ious = paired_iou(predicted, boxes[..., None, :])
        distance = (predicted - boxes[..., None, :]).square().sum(dim=-1)
        overlapping = (ious > 0).any(dim=-1, keepdim=True)
        responsible = torch.where(overlapping, ious, -distance).argmax(dim=-1)
        is_responsible = nn.functional.one_hot(responsible, output.boxes.shape[3]).bool() & (labels >= 0)[..., None]
        places = torch.arange(grid, device=boxes.device, dtype=boxes.dtype)
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2 * grid
        x, y = centres[..., 0] - places, centres[..., 1] - places[:, None]
        wanted = torch.cat([torch.stack([x, y], dim=-1), (boxes[..., 2:] - boxes[..., :2]).sqrt()], dim=-1)
    box = (output.boxes - wanted[..., None, :]).square().sum(dim=-1)[is_responsible].sum()
    with_object = (output.confidences - ious).square()[is_responsible].sum()
    without = output.confidences.square()[~is_responsible].sum()
    present = labels >= 0
    probabilities = nn.functional.one_hot(labels[present], output.classes.shape[-1]).to(output.classes)
    return {
        "boxes": coordinates * box / count,
        "confidences": (with_object + no_object * without) / count,
        "classes": (output.classes[present] - probabilities).square().sum() / count,
    }


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the IoU of boxes [..., 4] with others [..., 4], one by one with broadcasting; 0 if the union is empty."""
    common = (torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])).clamp(
        min=0
    )
    intersection = common.prod(dim=-1)
    areas = [(b[..., 2:] - b[..., :2]).prod(dim=-1) for b in (boxes, others)]
    return intersection / (areas[0] + areas[1] - intersection).clamp(min=1e-12)
