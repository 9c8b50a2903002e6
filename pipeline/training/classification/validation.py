"""The validation of a classifier: the scores of each image and of the whole set."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.classes import Classes
from pipeline.data.datasets import SampleError
from pipeline.errors import UserError
from pipeline.metrics.ranking import average_precision, none_if_nan, roc_auc
from pipeline.predict.classifier import Classification, Classifier
from pipeline.training import distributed
from pipeline.training.classification.examples import read_resized
from pipeline.training.classification.labelled_images import LabelledImage
from pipeline.training.task import Measures

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
class ClassifierValidation:
    """Scores of some validation images; see `task.Validated`.

    Attributes:
        rows: A dict per image with key, labels, predicted and score, the probability of the truth. If an image has
            one class, `rank` is the rank of the truth among the scores, from 0. Otherwise `probabilities` holds those
            of all classes, and the score is the mean probability that the network gives to each class's presence or
            absence.
        num_classes: Number of classes.
        multi_label: Whether an image may show several classes or none.
        unread: A line for each image that could not be read.
    """

    rows: list[dict[str, Any]]
    num_classes: int
    multi_label: bool
    unread: list[str] = field(default_factory=list)

    @property
    def confusion(self) -> NDArray | None:
        """int64 [classes, classes], row truth, column prediction; None if an image may show several classes."""
        if self.multi_label:
            return None
        matrix = np.zeros((self.num_classes, self.num_classes), np.int64)
        np.add.at(matrix, ([row["labels"][0] for row in self.rows], [row["predicted"] for row in self.rows]), 1)
        return matrix

    def over_workers(self, device: torch.device) -> "ClassifierValidation":
        """Return the validation over the shares of all workers.

        Raises:
            UserError: No validation image can be used.
        """
        rows = distributed.concatenate_lists(self.rows)
        if not rows:
            problem = f", the first problem: {self.unread[0]}" if self.unread else ""
            raise UserError(f"no validation image can be used{problem}")
        return ClassifierValidation(rows, self.num_classes, self.multi_label, self.unread)

    def record(self, classes: Classes) -> dict[str, Any]:
        """Return the scores under the keys of `SINGLE_LABEL` or `MULTI_LABEL`."""
        return self._multi_label_scores(classes) if self.multi_label else self._single_label_scores(classes)

    def _single_label_scores(self, classes: Classes) -> dict[str, Any]:
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

    def _multi_label_scores(self, classes: Classes) -> dict[str, Any]:
        probabilities = np.array([row["probabilities"] for row in self.rows])
        present = np.array([[k in row["labels"] for k in range(self.num_classes)] for row in self.rows])
        pairs = list(enumerate(classes.names))
        ap = {name: none_if_nan(average_precision(probabilities[:, k], present[:, k])) for k, name in pairs}
        auc = {name: none_if_nan(roc_auc(probabilities[:, k], present[:, k])) for k, name in pairs}
        return {"mean_ap": _mean(ap.values()), "mean_auc": _mean(auc.values()), "ap": ap, "auc": auc}


def _mean(values: Iterable[float | None]) -> float:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else float("nan")


def validate(classifier: Classifier, samples: Sequence[LabelledImage], classes: Classes) -> ClassifierValidation:
    """Classify samples and compare with their classes.

    Args:
        classifier: Its model is left in eval mode.
        samples: This worker's share.
        classes: Classes of the data set.
    """
    classifier.model.eval()
    multi_label = classifier.classifier_input.multi_label
    index = {name: k for k, name in enumerate(classes.names)}
    found = ClassifierValidation([], len(classes), multi_label)
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(samples), WINDOW):
            window = samples[start : start + WINDOW]
            read = list(pool.map(lambda s: read_or_explain(s, classifier.classifier_input.size), window))
            found.unread += [pixels for pixels in read if isinstance(pixels, str)]
            usable = [(s, p) for s, p in zip(window, read, strict=True) if not isinstance(p, str)]
            results = classifier([pixels for _, pixels in usable]) if usable else []
            for (sample, _), result in zip(usable, results, strict=True):
                labels = [index[name] for name in sample.labels]
                found.rows.append(_row(sample.key, labels, result, multi_label=multi_label))
    return found


def read_or_explain(sample: LabelledImage, size: tuple[int, int]) -> NDArray[np.uint8] | str:
    """Read an image at (height, width), or return the reason why it cannot be used."""
    try:
        return read_resized(sample.image, size)
    except SampleError as error:
        return str(error)


def _row(key: str, labels: list[int], result: Classification, *, multi_label: bool) -> dict[str, Any]:
    p = result.probabilities
    row: dict[str, Any] = {"key": key, "labels": labels, "predicted": int(p.argmax())}
    if multi_label:
        present = np.isin(np.arange(len(p)), labels)
        return row | {"score": float(np.where(present, p, 1 - p).mean()), "probabilities": p.tolist()}
    truth = labels[0]
    # A tie goes to the smaller index, as with argmax.
    rank = int((p > p[truth]).sum() + (p[:truth] == p[truth]).sum())
    return row | {"score": float(p[truth]), "rank": rank}
