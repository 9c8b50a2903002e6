"""Learning to segment: the task that `jobs/train.py` gives to the loop."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import models, storage
from pipeline.bundle import Card
from pipeline.data.classes import Classes, load_classes
from pipeline.data.datasets import Sample, SampleError, pair, read_list, read_sample
from pipeline.errors import UserError
from pipeline.models.layers import SegmentationOutput
from pipeline.predict.segmenter import Segmenter
from pipeline.report.mask_sheet import Picture, draw_sheet
from pipeline.training.config import Split, TrainConfig
from pipeline.training.segmentation.class_weights import class_weights
from pipeline.training.segmentation.losses import Totals, segmentation_loss, totals
from pipeline.training.segmentation.validation import Segmented, validate
from pipeline.training.stream import DrawCrops, as_table
from pipeline.training.task import Measures

SHOWN = 4  # validation images for trackers


class SegmentationObjective:
    """The configured loss of scores against label maps.

    Args:
        config: of the run.
        ignore_index: label that counts nowhere.
        stride: the network's output stride.
        class_weights: of the pixelwise terms, float [classes] on the device, or None.
    """

    def __init__(self, config: TrainConfig, *, ignore_index: int, stride: int, class_weights: Tensor | None = None):
        self.config = config
        self.ignore_index = ignore_index
        self.stride = stride
        self.class_weights = class_weights

    def totals(self, labels: Tensor) -> Tensor:
        return torch.stack(totals(labels, ignore_index=self.ignore_index, class_weights=self.class_weights))

    def __call__(self, output: SegmentationOutput, labels: Tensor, *, totals: Tensor, progress: float) -> Tensor:
        return segmentation_loss(
            output,
            labels,
            ignore_index=self.ignore_index,
            stride=self.stride,
            auxiliary_weight=auxiliary_weight(self.config, progress=progress),
            loss=self.config.loss,
            class_weights=self.class_weights,
            divisors=Totals(*totals),
        )


class SegmentationTask:
    """See `task.Task`.

    Args:
        config: of the run.
        classes: of the data set.
        train, val: samples.
    """

    classifies = False

    measures = Measures(
        {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "miou_gt_only": "mIoU, classes in ground truth only"},
        by_class="iou",
        class_title="IoU",
        of_image="miou",
    )

    def __init__(self, config: TrainConfig, classes: Classes, train: list[Sample], val: list[Sample]):
        self.config = config
        self.classes = classes
        self.table = as_table(train)
        self.validation = val
        self._class_weights: list[float] | None = None
        self.draw = DrawCrops(
            augmentation=config.augmentation, classes=classes, preprocessing=config.preprocessing, seed=config.seed
        )

    def prepare(self) -> None:
        labels = [str(url) for url in self.table["label"].to_pylist()]
        self._class_weights = class_weights(self.config, self.classes, labels)

    def objective(self, network: nn.Module, device: torch.device) -> SegmentationObjective:
        return SegmentationObjective(
            self.config,
            ignore_index=self.classes.ignore_index,
            stride=network.output_stride,  # type: ignore[arg-type]
            class_weights=None if self._class_weights is None else torch.tensor(self._class_weights, device=device),
        )

    def evaluator(self, network: nn.Module, device: torch.device) -> Segmenter:
        return Segmenter(network, preprocessing=self.config.preprocessing, device=device, dtype=self.config.dtype)

    def validate(self, evaluator: Segmenter, samples: Sequence[Sample]) -> Segmented:
        return validate(evaluator, samples, self.classes)

    def pictures(self, evaluator: Segmenter, rows: Sequence[dict[str, Any]] | None = None) -> bytes:
        titles = None if rows is None else {row["key"]: f"{row['key']}   mIoU {row['miou']:.3f}" for row in rows}
        by_key = {sample.key: sample for sample in self.validation}
        chosen = self.validation if titles is None else [by_key[key] for key in titles if key in by_key]
        pictures: list[Picture] = []
        for sample in chosen:
            with contextlib.suppress(SampleError):
                pixels, labels = read_sample(sample, self.classes)
                title = sample.key if titles is None else titles[sample.key]
                pictures.append(Picture(title, pixels, evaluator([pixels])[0].labels, labels))
            if len(pictures) == SHOWN:
                break
        return draw_sheet(pictures, self.classes) if pictures else b""

    def card(self) -> Card:
        return Card(
            architecture=self.config.model,
            options=self.config.model_options,
            classes=self.classes,
            preprocessing=self.config.preprocessing,
        )


def segmentation_task(config: TrainConfig) -> SegmentationTask:
    """Read what is to be learnt.

    Raises:
        UserError: a class file, a list or a folder cannot be used.
    """
    classes = load_classes(config.classes)
    weights = config.loss.class_weights
    if weights and len(weights) != len(classes):
        raise UserError(f"--loss.class_weights has {len(weights)} numbers for {len(classes)} classes")
    return SegmentationTask(config, classes, _samples(config.train, "train"), _samples(config.val, "val"))


def _samples(split: Split, name: str) -> list[Sample]:
    found = pair(split.images, split.labels, keys=read_list(split.list) if split.list else None)
    if found.without_label:
        print(
            f"{name}: {len(found.without_label)} images have no label map and are left out, the first: "
            f"{found.without_label[0]}",
            file=sys.stderr,
        )
    if not found.samples:
        raise UserError(
            f"{name}: no image in {storage.redact(split.images)} has a label map of the same name in "
            f"{storage.redact(split.labels)}"
        )
    return found.samples


def auxiliary_weight(config: TrainConfig, *, progress: float) -> float:
    """The weight of auxiliary outputs when a share `progress` of the run is over."""
    architecture = models.configure(config.model, config.model_options)
    loss = config.loss
    weight = architecture.auxiliary_weight if loss.auxiliary_weight is None else loss.auxiliary_weight
    decays = architecture.auxiliary_decay if loss.auxiliary_decay is None else loss.auxiliary_decay
    return weight * (1 - progress) if decays else weight
