"""Learning to segment: the task of `segpipe train`."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import models, storage
from pipeline.card import Card
from pipeline.data.classes import Classes, load_classes
from pipeline.data.datasets import Sample, SampleError, pair, read_list, read_sample
from pipeline.errors import UserError
from pipeline.models.config import ModelTask
from pipeline.models.layers import SegmentationOutput
from pipeline.predict.segmenter import Segmenter
from pipeline.report.mask_sheet import MaskPicture, draw_mask_sheet
from pipeline.training.examples import TrainingData
from pipeline.training.network import architecture_of
from pipeline.training.segmentation.class_weights import class_weights
from pipeline.training.segmentation.config import Split, TrainConfig
from pipeline.training.segmentation.crops import DrawCrops, sample_table
from pipeline.training.segmentation.distillation import (
    TaughtNetwork,
    TaughtOutput,
    Teacher,
    check_teacher,
    distillation_losses,
    load_teacher,
)
from pipeline.training.segmentation.losses import LossTotals, loss_totals, segmentation_loss
from pipeline.training.segmentation.validation import SegmentationValidation, validate
from pipeline.training.task import Measures, Objective, Task

PICTURES = 4  # validation images of a sheet


class SegmentationObjective(Objective):
    """The configured loss of scores against label maps; see `task.Objective`.

    Args:
        config: Configuration of the run.
        ignore_index: Label of pixels that do not count.
        stride: Output stride of the network.
        class_weights: Weights of the pixelwise terms, float [classes] on the device, or None.
        teacher: Network from whose scores the network also learns, on the device, or None.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        ignore_index: int,
        stride: int,
        class_weights: Tensor | None = None,
        teacher: Teacher | None = None,
    ):
        self.config = config
        self.ignore_index = ignore_index
        self.stride = stride
        self.class_weights = class_weights
        self.teacher = teacher

    def module(self, network: nn.Module) -> nn.Module:
        """Return the network, together with its teacher if there is one."""
        return network if self.teacher is None else TaughtNetwork(network, self.teacher)

    def totals(self, labels: Tensor) -> Tensor:
        """Return the divisors of a batch's loss that these labels add to."""
        return torch.stack(loss_totals(labels, ignore_index=self.ignore_index, class_weights=self.class_weights))

    def __call__(
        self, output: SegmentationOutput | TaughtOutput, labels: Tensor, *, totals: Tensor, progress: float
    ) -> Tensor:
        """Return this part's share of the loss of a batch with the given totals."""
        student = output.student if isinstance(output, TaughtOutput) else output
        loss = segmentation_loss(
            student,
            labels,
            ignore_index=self.ignore_index,
            stride=self.stride,
            auxiliary_weight=auxiliary_weight(self.config, progress=progress),
            loss=self.config.loss,
            class_weights=self.class_weights,
            divisors=LossTotals(*totals),
        )
        if self.teacher is None or not isinstance(output, TaughtOutput):
            return loss
        weight = self.config.loss.teacher_weight
        return (1 - weight) * loss + weight * self._distillation(output, labels, LossTotals(*totals), self.teacher)

    def _distillation(self, output: TaughtOutput, labels: Tensor, totals: LossTotals, teacher: Teacher) -> Tensor:
        losses = distillation_losses(
            output.student.logits,
            output.teacher,
            labels,
            ignore_index=self.ignore_index,
            strides=(self.stride, teacher.output_stride),
            temperature=self.config.loss.teacher_temperature,
        )
        if self.class_weights is not None:  # the totals are sums of these weights
            losses = losses * self.class_weights[torch.where(labels != self.ignore_index, labels, 0)]
        return losses.sum() / (totals.pixels if self.config.loss.reduction == "mean" else 1)


class SegmentationTask(Task):
    """Learning to segment; see `task.Task`.

    Args:
        config: Configuration of the run.
        classes: Classes of the data set.
        validation: Validation samples.
    """

    name: ModelTask = "segmentation"

    measures = Measures(
        {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "miou_gt_only": "mIoU, classes in ground truth only"},
        by_class="iou",
        class_title="IoU",
        of_image="miou",
        variants=("miou_gt_only",),
    )

    def __init__(self, config: TrainConfig, classes: Classes, validation: list[Sample]):
        self.config = config
        self.classes = classes
        self.validation = validation
        self._class_weights: list[float] | None = None

    def prepare(self, data: TrainingData) -> TrainingData:
        """Determine the class weights of the loss."""
        labels = [str(url) for url in data.table["label"].to_pylist()]
        self._class_weights = class_weights(self.config, self.classes, labels)
        return data

    def objective(self, network: nn.Module, device: torch.device) -> SegmentationObjective:
        """Return the configured loss."""
        return SegmentationObjective(
            self.config,
            ignore_index=self.classes.ignore_index,
            stride=network.output_stride,  # type: ignore[arg-type]
            class_weights=None if self._class_weights is None else torch.tensor(self._class_weights, device=device),
            teacher=None
            if self.config.teacher is None
            else load_teacher(self.config.teacher, taught=self.config.preprocessing, device=device),
        )

    def evaluator(self, network: nn.Module, device: torch.device) -> Segmenter:
        """Return the network as a segmenter of images."""
        return Segmenter(network, preprocessing=self.config.preprocessing, device=device, dtype=self.config.dtype)

    def validate(self, evaluator: Segmenter, samples: Sequence[Sample]) -> SegmentationValidation:
        """Score a share of the validation samples."""
        return validate(evaluator, samples, self.classes)

    def pictures(self, evaluator: Segmenter, rows: Sequence[dict[str, Any]] | None = None) -> bytes:
        """Draw some validation images with label map and prediction, as PNG."""
        titles = None if rows is None else {row["key"]: f"{row['key']}   mIoU {row['miou']:.3f}" for row in rows}
        by_key = {sample.key: sample for sample in self.validation}
        chosen = self.validation if titles is None else [by_key[key] for key in titles if key in by_key]
        pictures: list[MaskPicture] = []
        for sample in chosen:
            with contextlib.suppress(SampleError):
                pixels, labels = read_sample(sample, self.classes)
                title = sample.key if titles is None else titles[sample.key]
                pictures.append(MaskPicture(title, pixels, evaluator([pixels])[0].labels, labels))
            if len(pictures) == PICTURES:
                break
        return draw_mask_sheet(pictures, self.classes) if pictures else b""

    def card(self) -> Card:
        """Return the bundle's card, without weights and training record."""
        return Card(
            architecture=self.config.model,
            options=self.config.model_options,
            classes=self.classes,
            preprocessing=self.config.preprocessing,
        )


def segmentation_task(config: TrainConfig) -> tuple[SegmentationTask, TrainingData]:
    """Read what is to be learnt.

    Raises:
        UserError: A class file, a list or a folder cannot be used.
    """
    architecture_of(config, SegmentationTask.name)  # before data are listed, which may take minutes
    classes = load_classes(config.classes)
    weights = config.loss.class_weights
    if weights and len(weights) != len(classes):
        raise UserError(f"--loss.class-weights has {len(weights)} numbers for {len(classes)} classes")
    augmentation = config.augmentation
    for flag, indices in (
        ("--loss.background", [config.loss.background]),
        ("--augmentation.background", [augmentation.background]),
        ("--augmentation.paste-classes", augmentation.paste_classes),
    ):
        unknown = [index for index in indices if not 0 <= index < len(classes)]
        if unknown:
            raise UserError(f"{flag} {unknown[0]}: the {len(classes)} classes have the indices 0 to {len(classes) - 1}")
    if config.teacher is not None:
        check_teacher(config.teacher, classes)
    train = _samples(config.train, "train")
    draw = DrawCrops(
        augmentation=config.augmentation, classes=classes, preprocessing=config.preprocessing, seed=config.seed
    )
    task = SegmentationTask(config, classes, _samples(config.val, "val"))
    return task, TrainingData(sample_table(train), draw)


def _samples(split: Split, name: str) -> list[Sample]:
    keys = read_list(split.list) if split.list else None
    found = pair(split.images, split.labels, keys=keys, names=split, group=f"{name}.")
    if found.without_label and found.samples:
        print(
            f"{name}: {len(found.without_label)} images have no label map and are left out, the first: "
            f"{found.without_label[0]}{found.advice}",
            file=sys.stderr,
        )
    if not found.samples:
        raise UserError(
            f"{name}: no image in {storage.redact(split.images)} has a label map of the same name in "
            f"{storage.redact(split.labels)}{found.advice}"
        )
    return found.samples


def auxiliary_weight(config: TrainConfig, *, progress: float) -> float:
    """Return the weight of auxiliary outputs when a share `progress` of the run is over."""
    architecture = models.configure(config.model, config.model_options)
    loss = config.loss
    weight = architecture.auxiliary_weight if loss.auxiliary_weight is None else loss.auxiliary_weight
    decays = architecture.auxiliary_decay if loss.auxiliary_decay is None else loss.auxiliary_decay
    return weight * (1 - progress) if decays else weight
