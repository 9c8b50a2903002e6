"""Learning to classify: the task that `jobs/train_classifier.py` gives to the loop."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.bundle import Card
from pipeline.cam import activation
from pipeline.data.classes import Classes, load_classes
from pipeline.data.datasets import SampleError
from pipeline.data.preprocessing import ClassifierInput
from pipeline.errors import UserError
from pipeline.metrics.ranking import average_precision, none_if_nan, roc_auc
from pipeline.models.cam_classifier import ClassifierOutput
from pipeline.predict.classifier import Answer, Classifier
from pipeline.report.map_sheet import Found, draw_found
from pipeline.training import distributed
from pipeline.training.classification.images import DrawImages, LabelledImage, as_table, read_image, read_labelled
from pipeline.training.config import ClassifierConfig, ClassifierLoss
from pipeline.training.task import Measures

SHOWN = 4  # validation images for trackers
WINDOW = 64  # validation images read and classified at a time
THREADS = 8

SINGLE_LABEL = Measures(
    {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "mean_accuracy": "mean class accuracy"},
    by_class="accuracy",
    class_title="accuracy",
    of_image="score",
)
MULTI_LABEL = Measures(
    {"mean_ap": "mean average precision", "mean_auc": "mean AUC"},
    by_class="ap",
    class_title="average precision",
    of_image="score",
)


@dataclass
class Classified:
    """See `task.Validated`. A row is a dict of key, labels, predicted, and score: the probability of the truth.

    Where an image has one class, `rank` is the truth's among the scores, from 0; otherwise `probabilities` are those
    of all classes, and the score is the mean probability that the network gives to each class's being there or not.
    """

    rows: list[dict[str, Any]]
    classes: int
    multi_label: bool
    unread: list[str] = field(default_factory=list)

    @property
    def confusion(self) -> NDArray | None:
        if self.multi_label:
            return None
        matrix = np.zeros((self.classes, self.classes), np.int64)
        np.add.at(matrix, ([row["labels"][0] for row in self.rows], [row["predicted"] for row in self.rows]), 1)
        return matrix

    def over_workers(self, device: torch.device) -> "Classified":
        rows = distributed.gathered(self.rows)
        if not rows:
            raise UserError("not one validation image can be used")
        return Classified(rows, self.classes, self.multi_label, self.unread)

    def record(self, classes: Classes) -> dict[str, Any]:
        return self._several(classes) if self.multi_label else self._one(classes)

    def _one(self, classes: Classes) -> dict[str, Any]:
        ranks = np.array([row["rank"] for row in self.rows])
        labels = np.array([row["labels"][0] for row in self.rows])
        accuracy = {
            name: float((ranks[labels == k] < 1).mean()) if (labels == k).any() else None
            for k, name in enumerate(classes.names)
        }
        return {
            "top1": float((ranks < 1).mean()),
            "top5": float((ranks < 5).mean()),
            "mean_accuracy": _mean(accuracy.values()),
            "accuracy": accuracy,
        }

    def _several(self, classes: Classes) -> dict[str, Any]:
        probabilities = np.array([row["probabilities"] for row in self.rows])
        present = np.array([[k in row["labels"] for k in range(self.classes)] for row in self.rows])
        pairs = list(enumerate(classes.names))
        ap = {name: none_if_nan(average_precision(probabilities[:, k], present[:, k])) for k, name in pairs}
        auc = {name: none_if_nan(roc_auc(probabilities[:, k], present[:, k])) for k, name in pairs}
        return {"mean_ap": _mean(ap.values()), "mean_auc": _mean(auc.values()), "ap": ap, "auc": auc}


def _mean(values: Any) -> float:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else float("nan")


class ClassifierObjective:
    """Cross-entropy of scores against classes; see `config.ClassifierLoss`.

    Args:
        loss: its options.
        multi_label: labels are 0 or 1 for each class, [batch, classes], rather than an index, [batch].
        weights: float [classes] on the device, or None.
    """

    def __init__(self, loss: ClassifierLoss, *, multi_label: bool, weights: Tensor | None):
        self.loss = loss
        self.multi_label = multi_label
        self.weights = weights

    def totals(self, labels: Tensor) -> Tensor:
        if self.multi_label or self.weights is None:
            return torch.tensor([float(labels.numel())], device=labels.device)
        return self.weights[labels].sum()[None].clamp(min=1e-6)

    def __call__(self, output: ClassifierOutput, labels: Tensor, *, totals: Tensor, progress: float) -> Tensor:
        logits, smoothing = output.logits.float(), self.loss.label_smoothing
        if self.multi_label:
            truth = labels.float() * (1 - smoothing) + smoothing / 2
            terms = F.binary_cross_entropy_with_logits(logits, truth, reduction="sum", pos_weight=self.weights)
        else:
            terms = F.cross_entropy(logits, labels, weight=self.weights, label_smoothing=smoothing, reduction="sum")
        return terms / totals[0]


class ClassificationTask:
    """See `task.Task`.

    Args:
        config: of the run.
        classes: of the data set.
        train, val: images with classes that are among them.
        multi_label: whether an image may show several, or none.
    """

    classifies = True

    def __init__(
        self,
        config: ClassifierConfig,
        classes: Classes,
        train: list[LabelledImage],
        val: list[LabelledImage],
        *,
        multi_label: bool,
    ):
        self.config = config
        self.classes = classes
        self.measures = MULTI_LABEL if multi_label else SINGLE_LABEL
        self.takes = ClassifierInput(size=config.input_size, multi_label=multi_label)
        self.table = as_table(train, classes.names)
        self.validation = val
        self.draw = DrawImages(config, classes=len(classes), multi_label=multi_label)

    def prepare(self) -> None:
        pass

    def objective(self, network: nn.Module, device: torch.device) -> ClassifierObjective:
        weights = self.config.loss.class_weights
        return ClassifierObjective(
            self.config.loss,
            multi_label=self.takes.multi_label,
            weights=torch.tensor(weights, device=device) if weights else None,
        )

    def evaluator(self, network: nn.Module, device: torch.device) -> Classifier:
        config = self.config
        return Classifier(
            network, takes=self.takes, preprocessing=config.preprocessing, device=device, dtype=config.dtype
        )

    def validate(self, evaluator: Classifier, samples: Sequence[LabelledImage]) -> Classified:
        evaluator.model.eval()
        index = {name: k for k, name in enumerate(self.classes.names)}
        found = Classified([], len(self.classes), self.takes.multi_label)
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(samples), WINDOW):
                window = samples[start : start + WINDOW]
                read = list(pool.map(self._read, window))
                found.unread += [pixels for pixels in read if isinstance(pixels, str)]
                usable = [(s, p) for s, p in zip(window, read, strict=True) if not isinstance(p, str)]
                answers = evaluator([pixels for _, pixels in usable]) if usable else []
                for (sample, _), answer in zip(usable, answers, strict=True):
                    labels = [index[name] for name in sample.labels]
                    found.rows.append(_row(sample.key, labels, answer, multi_label=self.takes.multi_label))
        return found

    def _read(self, sample: LabelledImage) -> NDArray[np.uint8] | str:
        try:
            return read_image(sample.image, self.takes.size)
        except SampleError as error:
            return str(error)

    def pictures(self, evaluator: Classifier, rows: Sequence[dict[str, Any]] | None = None) -> bytes:
        by_key = {sample.key: sample for sample in self.validation}
        keys = list(by_key) if rows is None else [row["key"] for row in rows]
        pictures: list[Found] = []
        for key in keys:
            pixels = self._read(by_key[key]) if key in by_key else ""
            if isinstance(pixels, str):
                continue
            (answer,) = evaluator([pixels])
            best = int(answer.probabilities.argmax())
            heatmap = activation.heatmaps(answer.maps([best]), self.takes.size)[0]
            truth = ", ".join(by_key[key].labels) or "none"
            title = f"{key} ({truth}): {self.classes.names[best]} {answer.probabilities[best]:.0%}"
            pictures.append(Found(title, pixels, heatmap))
            if len(pictures) == SHOWN:
                break
        return draw_found(pictures) if pictures else b""

    def card(self) -> Card:
        return Card(
            architecture=self.config.model,
            options=self.config.model_options,
            classes=self.classes,
            preprocessing=self.config.preprocessing,
            classifier=self.takes,
        )


def _row(key: str, labels: list[int], answer: Answer, *, multi_label: bool) -> dict[str, Any]:
    p = answer.probabilities
    row: dict[str, Any] = {"key": key, "labels": labels, "predicted": int(p.argmax())}
    if multi_label:
        present = np.isin(np.arange(len(p)), labels)
        return row | {"score": float(np.where(present, p, 1 - p).mean()), "probabilities": p.tolist()}
    truth = labels[0]
    # A tie goes to the smaller index, as with argmax.
    rank = int((p > p[truth]).sum() + (p[:truth] == p[truth]).sum())
    return row | {"score": float(p[truth]), "rank": rank}


def classification_task(config: ClassifierConfig) -> ClassificationTask:
    """Read what is to be learnt.

    Raises:
        UserError: nothing to learn from, or validation images of classes that training has not.
    """
    train = read_labelled(config.train, target=config.target, name="train")
    val = read_labelled(config.val, target=config.target, name="val")
    seen = dict.fromkeys(label for image in train.images for label in image.labels)
    classes = load_classes(config.classes) if config.classes else Classes(names=tuple(sorted(seen)))
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
        raise UserError(f"--loss.class_weights has {len(weights)} numbers for {len(classes)} classes")
    multi_label = train.multi_label or val.multi_label if config.multi_label is None else config.multi_label
    if not multi_label and (train.multi_label or val.multi_label):
        raise UserError("--no-multi_label, but some images have several classes or none")
    if len(classes) < 2 and not multi_label:
        raise UserError(f"train: all images show '{classes.names[0]}'; there must be others to tell it from")
    return ClassificationTask(config, classes, train.images, val.images, multi_label=multi_label)
