"""Learning to classify: the task of `segpipe train-classifier`."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from pipeline.cam import activation
from pipeline.card import Card
from pipeline.data.classes import Classes, load_classes
from pipeline.data.preprocessing import ClassifierInput
from pipeline.errors import UserError, first_problem
from pipeline.models.config import ModelTask
from pipeline.predict.classifier import Classifier
from pipeline.training.classification.config import TrainClassifierConfig
from pipeline.training.classification.examples import DrawImages, labelled_table
from pipeline.training.classification.labelled_images import LabelledImage, read_labelled
from pipeline.training.classification.objective import ClassifierObjective
from pipeline.training.classification.validation import (
    MULTI_LABEL,
    SINGLE_LABEL,
    ClassifierValidation,
    read_or_explain,
    validate,
)
from pipeline.training.examples import TrainingData
from pipeline.training.network import architecture_of
from pipeline.training.task import Task

PICTURES = 4  # validation images of a sheet


class ClassificationTask(Task):
    """Learning to classify; see `task.Task`.

    Args:
        config: Configuration of the run.
        classes: Classes of the data set.
        validation: Validation images, whose classes are among these.
        multi_label: Whether an image may show several classes or none.
    """

    name: ModelTask = "classification"

    def __init__(
        self, config: TrainClassifierConfig, classes: Classes, validation: list[LabelledImage], *, multi_label: bool
    ):
        self.config = config
        self.classes = classes
        self.measures = MULTI_LABEL if multi_label else SINGLE_LABEL
        self.classifier_input = ClassifierInput(size=config.input_size, multi_label=multi_label)
        self.validation = validation

    def objective(self, network: nn.Module, device: torch.device) -> ClassifierObjective:
        """Return the configured loss."""
        weights = self.config.loss.class_weights
        return ClassifierObjective(
            self.config.loss,
            multi_label=self.classifier_input.multi_label,
            weights=torch.tensor(weights, device=device) if weights else None,
        )

    def evaluator(self, network: nn.Module, device: torch.device) -> Classifier:
        """Return the network as a classifier of images."""
        return Classifier(
            network,
            classifier_input=self.classifier_input,
            preprocessing=self.config.preprocessing,
            device=device,
            dtype=self.config.dtype,
        )

    def validate(self, evaluator: Classifier, samples: Sequence[LabelledImage]) -> ClassifierValidation:
        """Score a share of the validation images."""
        return validate(evaluator, samples, self.classes)

    def pictures(self, evaluator: Classifier, rows: Sequence[dict[str, Any]] | None = None) -> bytes:
        """Draw some validation images with the map of the most probable class, as PNG."""
        from pipeline.report.map_sheet import MapPicture, draw_map_sheet  # matplotlib

        by_key = {sample.key: sample for sample in self.validation}
        keys = list(by_key) if rows is None else [row["key"] for row in rows]
        pictures: list[MapPicture] = []
        for key in keys:
            pixels = read_or_explain(by_key[key], self.classifier_input.size) if key in by_key else ""
            if isinstance(pixels, str):
                continue
            (result,) = evaluator([pixels])
            best = int(result.probabilities.argmax())
            heatmap = activation.heatmaps(result.maps([best]), self.classifier_input.size)[0]
            truth = ", ".join(by_key[key].labels) or "none"
            title = f"{key} ({truth}): {self.classes.names[best]} {result.probabilities[best]:.0%}"
            pictures.append(MapPicture(title, pixels, heatmap))
            if len(pictures) == PICTURES:
                break
        return draw_map_sheet(pictures) if pictures else b""

    def card(self) -> Card:
        """Return the bundle's card, without weights and training record."""
        return Card(
            architecture=self.config.model,
            options=self.config.model_options,
            classes=self.classes,
            preprocessing=self.config.preprocessing,
            classifier=self.classifier_input,
        )


def classification_task(config: TrainClassifierConfig) -> tuple[ClassificationTask, TrainingData]:
    """Read what is to be learnt.

    Raises:
        UserError: There is nothing to learn from, or validation images show classes that training images do not.
    """
    architecture_of(config, ClassificationTask.name)  # before data are listed, which may take minutes
    train = read_labelled(config.train, target=config.target, name="train")
    val = read_labelled(config.val, target=config.target, name="val")
    seen = dict.fromkeys(label for image in train.images for label in image.labels)
    classes = load_classes(config.classes) if config.classes else _found_classes(sorted(seen))
    for part, name in ((train, "train"), (val, "val")):
        unknown = sorted({label for image in part.images for label in image.labels} - set(classes.names))
        if unknown:
            raise UserError(
                f"{name}: {len(unknown)} classes are not among those to learn ({', '.join(classes.names[:5])}, …), "
                f"the first: '{unknown[0]}'"
            )
    never = [name for name in classes.names if name not in seen]
    if never:
        print(f"train: no image shows {', '.join(never[:5])}; these classes cannot be learnt")
    weights = config.loss.class_weights
    if weights and len(weights) != len(classes):
        raise UserError(f"--loss.class-weights has {len(weights)} numbers for {len(classes)} classes")
    multi_label = train.multi_label or val.multi_label if config.multi_label is None else config.multi_label
    if not multi_label and (train.multi_label or val.multi_label):
        raise UserError("--no-multi-label, but some images have several classes or none")
    if multi_label and not any(image.labels for image in val.images):
        raise UserError("val: no image shows a class, so nothing can be scored")
    if len(classes) < 2 and not multi_label:
        raise UserError(f"train: all images show '{classes.names[0]}'; there must be images of another class too")
    draw = DrawImages(config, num_classes=len(classes), multi_label=multi_label)
    task = ClassificationTask(config, classes, val.images, multi_label=multi_label)
    return task, TrainingData(labelled_table(train.images, classes.names), draw)


def _found_classes(names: Sequence[str]) -> Classes:
    if not names:
        raise UserError("train: no image shows a class, so nothing can be learnt")
    try:
        # There are no label maps in which 255 could be ignored.
        return Classes(names=tuple(names), ignore_index=255 if len(names) <= 255 else -1)
    except ValidationError as error:
        raise UserError(f"train: the classes of the images: {first_problem(error)}; --classes may name them") from None
