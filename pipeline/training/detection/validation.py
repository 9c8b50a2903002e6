"""The validation of a detector: average precision over the set, and the scores of each image."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.data.classes import Classes
from pipeline.data.datasets import SampleError, read_image
from pipeline.errors import UserError
from pipeline.metrics.detection import DetectionCounts, count_detections
from pipeline.metrics.matching import Detections, Truth
from pipeline.metrics.ranking import none_if_nan
from pipeline.predict.detector import Detector
from pipeline.training import distributed
from pipeline.training.detection.survey import SurveyedImage, surveyed
from pipeline.training.task import Measures

WINDOW = 32  # validation images that are read at a time
BATCH = 4  # images of one size that are searched at a time; one if its regions fill the memory
THREADS = 8

MEASURES = Measures(
    {"map50": "mAP@.5", "map": "COCO AP@[.5:.95]", "map75": "COCO AP@.75", "map50_voc07": "VOC 2007 mAP"},
    by_class="ap50",
    class_title="AP@.5",
    of_image="ap50",
)


@dataclass
class DetectorValidation:
    """Scores of some validation images; see `task.Validated`.

    Attributes:
        counts: Compared detections.
        rows: A dict per image with key, the numbers of objects (without difficult ones and crowds) and detections, and
            ap50, the mean over its classes of the average precision on this image alone; NaN without objects.
        unread: A line for each image that could not be read.
    """

    counts: DetectionCounts
    rows: list[dict[str, Any]]
    unread: list[str] = field(default_factory=list)

    confusion: NDArray | None = None

    @staticmethod
    def merged(parts: "Sequence[DetectorValidation]") -> "DetectorValidation":
        """Return the validation over all parts, of which there is at least one."""
        return DetectorValidation(
            DetectionCounts.merged([part.counts for part in parts]),
            [row for part in parts for row in part.rows],
            [line for part in parts for line in part.unread],
        )

    def over_workers(self, device: torch.device) -> "DetectorValidation":
        """Return the validation over the shares of all workers.

        Raises:
            UserError: No validation image can be used, or there is nothing to find.
        """
        counts = DetectionCounts.merged(distributed.concatenate_lists([self.counts]))
        if counts.images == 0:
            problem = f", the first problem: {self.unread[0]}" if self.unread else ""
            raise UserError(f"no validation image can be used{problem}")
        if not counts.voc.positives.any():
            raise UserError("val: no image has a box that must be found")
        return DetectorValidation(counts, distributed.concatenate_lists(self.rows), self.unread)

    def record(self, classes: Classes) -> dict[str, Any]:
        """Return the scores under the keys of `MEASURES`."""
        scores = self.counts.scores
        means = scores.means
        return {
            "map50": means["voc10"],
            "map": means["coco"],
            "map75": means["coco75"],
            "map50_voc07": means["voc07"],
            "ap50": {name: none_if_nan(ap) for name, ap in zip(classes.names, scores.voc10.tolist(), strict=True)},
            "ap": {name: none_if_nan(ap) for name, ap in zip(classes.names, scores.coco.tolist(), strict=True)},
        }


def validate(detector: Detector, table: pa.Table, indices: Sequence[int], *, num_classes: int) -> DetectorValidation:
    """Search images for objects and compare with their boxes.

    Args:
        detector: Its model is left in eval mode.
        table: Survey of the validation images.
        indices: Rows of the table to validate; they decide between equal scores.
        num_classes: Number of classes.
    """
    detector.model.eval()
    batch = 1 if detector.detector_input.proposals else BATCH
    found: list[DetectionCounts] = [DetectionCounts.zeros(num_classes)]
    result = DetectorValidation(found[0], [])
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(indices), WINDOW):
            window = indices[start : start + WINDOW]
            images = list(pool.map(lambda i: _read(table, i), window))
            result.unread += [image for image in images if isinstance(image, str)]
            usable = [(i, *image) for i, image in zip(window, images, strict=True) if not isinstance(image, str)]
            for _, group in groupby(sorted(usable, key=lambda u: u[1].size), key=lambda u: u[1].size):
                same = list(group)
                for first in range(0, len(same), batch):
                    part = same[first : first + batch]
                    outputs = detector([pixels for _, _, pixels in part], [row.proposals for _, row, _ in part])
                    for (index, row, _), output in zip(part, outputs, strict=True):
                        detections = Detections.of(output.boxes, output.labels, output.scores)
                        counts = count_detections(detections, truth_of(row), num_classes=num_classes, order=index)
                        found.append(counts)
                        result.rows.append(_row(row, counts, len(output.scores)))
    result.counts = DetectionCounts.merged(found)
    return result


def truth_of(row: SurveyedImage) -> Truth:
    """Return the true boxes of an image."""
    return Truth.of(row.boxes, row.labels, row.difficult, row.crowd)


def read_row(row: SurveyedImage) -> NDArray[np.uint8]:
    """Return the pixels of an image.

    Raises:
        SampleError: It cannot be used.
    """
    if row.error is not None:
        raise SampleError(row.error)
    return read_image(row.image).pixels


def _read(table: pa.Table, index: int) -> tuple[SurveyedImage, NDArray[np.uint8]] | str:
    row = surveyed(table, index)
    try:
        return row, read_row(row)
    except SampleError as error:
        return str(error)


def _row(row: SurveyedImage, counts: DetectionCounts, detections: int) -> dict[str, Any]:
    objects = int((~truth_of(row).ignored).sum())
    ap = counts.scores.means["voc10"] if objects else math.nan
    return {"key": row.key, "objects": objects, "detections": detections, "ap50": ap}
