"""What all detectors have in common: their input, their output and their configuration.

Boxes are [n, 4] of left, top, right, bottom in pixels of the image, with right and bottom exclusive. Labels are the
classes 0..classes-1. Where a network also scores the background, that is the last score.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor, nn

from pipeline.models.config import ModelConfig, ModelTask
from pipeline.models.detection.boxes import DetectorOutput, Selection, select

Randomness = np.random.Generator | Sequence[np.random.Generator]


def generators(rng: Randomness, images: int) -> Sequence[np.random.Generator]:
    """Return a source of randomness for each image."""
    return [rng] * images if isinstance(rng, np.random.Generator) else rng


class Target(NamedTuple):
    """The true boxes of one image.

    Attributes:
        boxes: Boxes of positive area, float [n, 4]; n may be 0.
        labels: Classes, int64 [n].
    """

    boxes: Tensor
    labels: Tensor


class ScoredBoxes(NamedTuple):
    """The scored boxes in one image, before any choice among them.

    Attributes:
        boxes: Boxes, [n, classes, 4], or [n, 1, 4] if they do not depend on the class. Some may be empty.
        scores: Scores of the classes, without the background, [n, classes].
    """

    boxes: Tensor
    scores: Tensor


class DetectorConfig(ModelConfig):
    """The options of a detector.

    Attributes:
        takes_proposals: Whether the detector classifies proposals, rather than finding boxes by itself.
        staged: Whether SVMs and box regressors are fitted to the features of the trained network, as in R-CNN.
        selection: Default choice of the detections among all scored boxes.
    """

    task: ClassVar[ModelTask] = "detection"
    takes_proposals: ClassVar[bool]
    staged: ClassVar[bool] = False
    selection: ClassVar[Selection]

    @abstractmethod
    def build(self, num_classes: int) -> "DetectionNetwork":
        """Return the detector with freshly initialised weights, for a number of classes without the background."""


class DetectionNetwork(nn.Module):
    """A network that finds boxes.

    Args:
        num_classes: Number of classes without the background.
        selection: Default choice of the detections.
    """

    def __init__(self, *, num_classes: int, selection: Selection):
        super().__init__()
        self.num_classes = num_classes
        self.selection = selection

    @abstractmethod
    def losses(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target],
        proposals: Sequence[Tensor] | None = None,
        *,
        rng: Randomness,
    ) -> dict[str, Tensor]:
        """Return the terms of the loss, whose sum is minimised; each is the mean over the images of an image's term.

        The terms of parts of a batch therefore add up to those of the batch, weighted by the number of images.

        Args:
            images: Normalised images [3, height, width] of any sizes.
            targets: True boxes of each image.
            proposals: Proposals [n, 4] of each image, if the detector takes them.
            rng: Source of the randomness with which regions are sampled; or one for each image, which makes an image's
                sample independent of the others.
        """

    @property
    def default_selection(self) -> Selection:
        """The network's own choice of the detections."""
        return self.selection

    def loosen(self, *, score: float | None = None, iou: float | None = None, limit: int | None = None) -> None:
        """Let `score_boxes` return what a looser choice than the network's own may take; None changes nothing.

        Args:
            score: As in `Selection`.
            iou: As in `Selection`.
            limit: As in `Selection`.
        """
        return  # networks that return all boxes, as ours do, need nothing of it

    @abstractmethod
    def score_boxes(self, images: Sequence[Tensor], proposals: Sequence[Tensor] | None = None) -> list[ScoredBoxes]:
        """Return the scored boxes in each image.

        Args:
            images: Normalised images [3, height, width] of any sizes.
            proposals: Proposals [n, 4] of each image, if the detector takes them; n may be 0.
        """

    def detect(
        self,
        images: Sequence[Tensor],
        proposals: Sequence[Tensor] | None = None,
        *,
        selection: Selection | None = None,
    ) -> list[DetectorOutput]:
        """Return the detections in each image, those with the highest scores first.

        Args:
            images: Normalised images [3, height, width] of any sizes.
            proposals: Proposals [n, 4] of each image, if the detector takes them; n may be 0.
            selection: Choice of the detections; the detector's own by default.
        """
        chosen = selection or self.default_selection
        return [select(*scored, chosen) for scored in self.score_boxes(images, proposals)]
