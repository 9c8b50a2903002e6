"""Labelled images of a study, and the scores of a network on them as counts that are added."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import storage
from pipeline.card import Card
from pipeline.data import datasets
from pipeline.data.datasets import Sample
from pipeline.errors import UserError
from pipeline.metrics.segmentation import confusion, scores
from pipeline.models.upsampling import upsample
from pipeline.predict.classifier import Classifier
from pipeline.predict.segmenter import Segmenter
from pipeline.studies.config import LesionConfig
from pipeline.training.classification.config import LabelledImages
from pipeline.training.classification.examples import read_resized
from pipeline.training.classification.labelled_images import LabelledImage, read_labelled


class Labelled(NamedTuple):
    """A decoded image with its labels.

    Attributes:
        pixels: uint8 [height, width, 3].
        labels: Class of the image, int64 [], or class indices of its pixels, int32 [height, width].
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.integer]


class Scorer(Protocol):
    """Reading and scoring for one kind of network; it is pickled to tasks."""

    score: str  # name of the score, of which the error is 1 minus

    def samples(self, config: LesionConfig) -> Sequence[Any]:
        """List the labelled images.

        Raises:
            UserError: There are none, or they do not fit the network.
        """

    def read(self, sample: Any) -> Labelled:
        """Decode a sample.

        Raises:
            SampleError: It cannot be used.
        """

    def evaluator(self, network: nn.Module, device: torch.device) -> Any:
        """Return the network in the form that `count` takes."""

    def count(self, evaluator: Any, batch: Sequence[Labelled]) -> NDArray[np.int64]:
        """Return the counts of a batch of images of one size; counts of batches are added."""

    def error(self, counts: NDArray[np.int64]) -> float:
        """Return the error of counts, in 0..1."""

    def chance(self, counts: NDArray[np.int64]) -> float:
        """Return the error of a network that knows nothing, for the images of the counts."""

    def loss(self, output: Any, labels: Tensor, network: nn.Module) -> Tensor:
        """Return the mean cross entropy of a network's output."""


def scorer_of(card: Card, where: str) -> Scorer:
    """Return the scorer for a bundle's network.

    Args:
        card: Card of the bundle.
        where: URL of the bundle, for messages.

    Raises:
        UserError: There is no error rate for such a network.
    """
    if card.detector is not None:
        raise UserError(f"{storage.redact(where)} is a detector; the study takes classifiers and segmentation networks")
    if card.classifier is None:
        return PixelScorer(card)
    if card.classifier.multi_label:
        raise UserError(
            f"{storage.redact(where)} was trained for any number of classes in an image; the study takes classifiers "
            "of one class for each image"
        )
    return ImageScorer(card)


class ImageScorer:
    """Top-1 accuracy of a classifier; see `Scorer`. Counts are the correct and all images."""

    score = "top-1 accuracy"

    def __init__(self, card: Card):
        assert card.classifier is not None
        self.card = card
        self.input = card.classifier

    def samples(self, config: LesionConfig) -> Sequence[LabelledImage]:
        """List the images and their classes."""
        split = LabelledImages(images=config.images, labels=config.labels, list=config.list)
        found = read_labelled(split, target="", name="images", flag="--labels").images
        known = set(self.card.classes.names)
        fitting = [image for image in found if len(image.labels) == 1 and image.labels[0] in known]
        if not fitting:
            raise UserError(
                f"no image in {storage.redact(config.images)} has one class of the model; it knows "
                f"{', '.join(self.card.classes.names[:5])}…, the first image has "
                f"{', '.join(found[0].labels) if found else 'none'}"
            )
        return fitting

    def read(self, sample: LabelledImage) -> Labelled:
        """Decode an image at the size of the classifier's input."""
        label = self.card.classes.names.index(sample.labels[0])
        return Labelled(read_resized(sample.image, self.input.size), np.array(label))

    def evaluator(self, network: nn.Module, device: torch.device) -> Classifier:
        """Return the network as a classifier of images."""
        return Classifier(network, classifier_input=self.input, preprocessing=self.card.preprocessing, device=device)

    def count(self, evaluator: Classifier, batch: Sequence[Labelled]) -> NDArray[np.int64]:
        """Return the numbers of correct and of all images, [2]."""
        found = evaluator([image.pixels for image in batch])
        correct = sum(int(result.logits.argmax() == image.labels) for result, image in zip(found, batch, strict=True))
        return np.array([correct, len(batch)], np.int64)

    def error(self, counts: NDArray[np.int64]) -> float:
        """Return the share of wrong images."""
        return 1 - float(counts[0] / counts[1])

    def chance(self, counts: NDArray[np.int64]) -> float:
        """Return the error of guessing."""
        return 1 - 1 / len(self.card.classes)

    def loss(self, output: Any, labels: Tensor, network: nn.Module) -> Tensor:
        """Return the mean cross entropy over images."""
        return F.cross_entropy(output.logits, labels)


class PixelScorer:
    """Mean IoU of a segmentation network; see `Scorer`. Counts are the confusion matrix."""

    score = "mIoU"

    def __init__(self, card: Card):
        self.card = card

    def samples(self, config: LesionConfig) -> Sequence[Sample]:
        """List the images and their label maps."""
        if config.labels is None:
            raise UserError("a segmentation network needs --labels, a folder of label maps")
        if config.images == config.labels:
            raise UserError("--images and --labels name the same folder; images and label maps need one each")
        keys = datasets.read_list(config.list) if config.list else None
        found = datasets.pair(config.images, config.labels, keys=keys).samples
        if not found:
            raise UserError(
                f"no image in {storage.redact(config.images)} has a label map of the same name in "
                f"{storage.redact(config.labels)}"
            )
        return found

    def read(self, sample: Sample) -> Labelled:
        """Decode an image and its label map."""
        return Labelled(*datasets.read_sample(sample, self.card.classes))

    def evaluator(self, network: nn.Module, device: torch.device) -> Segmenter:
        """Return the network as a segmenter of images."""
        return Segmenter(network, preprocessing=self.card.preprocessing, device=device)

    def count(self, evaluator: Segmenter, batch: Sequence[Labelled]) -> NDArray[np.int64]:
        """Return the confusion matrix, [classes, classes]."""
        classes = self.card.classes
        matrix = np.zeros((len(classes), len(classes)), np.int64)
        for image, found in zip(batch, evaluator([image.pixels for image in batch]), strict=True):
            matrix += confusion(
                image.labels, found.labels, num_classes=len(classes), ignore_index=classes.ignore_index
            ).matrix
        return matrix

    def error(self, counts: NDArray[np.int64]) -> float:
        """Return 1 minus the mean IoU over the classes in ground truth or prediction."""
        return 1 - scores(counts).miou

    def chance(self, counts: NDArray[np.int64]) -> float:
        """Return the error of giving every pixel the most frequent class."""
        truth = counts.sum(axis=1)
        constant = np.zeros_like(counts)
        constant[:, truth.argmax()] = truth
        return self.error(constant)

    def loss(self, output: Any, labels: Tensor, network: nn.Module) -> Tensor:
        """Return the mean cross entropy over labelled pixels."""
        height, width = labels.shape[-2:]
        logits = upsample(output.logits, (height, width), stride=network.output_stride)  # type: ignore[arg-type]
        return F.cross_entropy(logits, labels.long(), ignore_index=self.card.classes.ignore_index)
