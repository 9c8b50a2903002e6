"""Bulk detection: boxes with classes and scores, and average precision where true boxes are known.

`segpipe detect` starts it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.bulk.detection.comparison import CORNERS, FIELDS, PROPOSALS_FIELD, compare, detections_as_stored
from pipeline.bulk.detection.config import DetectConfig
from pipeline.bulk.detection.prepared import Detected, PreparedImage, prepare_image
from pipeline.bulk.detection.truth import truth_of_images
from pipeline.bulk.fetch import Fetched
from pipeline.bulk.kind import ImagePredictor, RunReport
from pipeline.bulk.outcome import Outcome
from pipeline.bulk.run import run_bulk
from pipeline.bulk.schema import results_schema
from pipeline.card import Card, read_card
from pipeline.data.images import boxes_from_upright
from pipeline.data.proposals import require_search
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

SECONDS_PER_PROPOSAL = 3.0  # longer than VGG16 takes on a busy core for a warped proposal


def detect(config: DetectConfig, outcome: Outcome | None = None) -> str | None:
    """Detect in the input, or resume the run in the output.

    Args:
        config: Options of the run.
        outcome: Filled in while the run goes on.

    Returns:
        The folder of the finished run; None after a dry run.

    Raises:
        UserError: The user has to change something; raised before a worker starts where possible.
    """
    return run_bulk(detection_run(config), outcome)


def detection_run(config: DetectConfig) -> "DetectionRun":
    """Return the kind of run of some options.

    Raises:
        UserError: The model or the options do not fit.
    """
    card = read_card(config.model)
    if card.detector is None:
        command = "segpipe localize" if card.classifier else "segpipe segment"
        raise UserError(f"{storage.redact(config.model)} is no detector; use it with {command}")
    if card.detector.proposals is not None:
        require_search()
    return DetectionRun(config, card)


class DetectionRun:
    """A bulk run that detects; see `kind.RunKind`.

    Args:
        config: Configuration of the run.
        card: Card of the model, a detector.
    """

    refines = False

    def __init__(self, config: DetectConfig, card: Card):
        assert card.detector is not None
        self.config = config
        self.card = card
        self.classes = card.classes
        self._proposals = card.detector.proposals
        self._longest_side = config.longest_side or card.detector.longest_side

    @property
    def seconds_per_image(self) -> float:
        """Time in which R-CNN classifies all proposals of an image on a CPU."""
        return 0.0 if self._proposals is None else SECONDS_PER_PROPOSAL * self._proposals.limit

    def images_schema(self, metadata: dict[str, Any]) -> pa.Schema:
        """Return the schema of `images`: detections and their numbers and times, with the truth if there is any."""
        entry = [("class", pa.string()), ("score", pa.float32()), *((name, pa.float32()) for name in CORNERS)]
        if self.config.truth:
            entry.append(("correct", pa.bool_()))
        own = [pa.field("detections", pa.list_(pa.struct(entry))), pa.field("candidates", pa.int32())]
        times = [pa.field("t_select_ms", pa.float32())]  # part of t_infer_ms
        if self._proposals is not None:
            own.append(pa.field("proposals", pa.int32()))
            times.insert(0, pa.field("t_propose_ms", pa.float32()))  # part of t_decode_ms
        if self.config.truth:
            own += FIELDS
            own += [PROPOSALS_FIELD] if self._proposals is not None else []
        return results_schema(own + times, pictures=[], metadata=metadata)

    def truth(self, ids: Iterable[list[str]]) -> Iterator[Sequence[str | None]]:
        """Yield the true boxes of the images as JSON."""
        if self.config.truth is None:
            yield from ([None] * len(some) for some in ids)
            return
        yield from truth_of_images(self.config.truth, self.classes, ids)

    def load_predictor(self, images: int) -> ImagePredictor:
        """Load the detector onto this process's device."""
        from pipeline.bulk.detection.predictor import DetectionPredictor

        return DetectionPredictor(self.config)

    def warm_up(self) -> None:
        """Do nothing: no task computes rows."""

    def prepare(self, pixels: NDArray[np.uint8]) -> PreparedImage:
        """Reduce a large image, and compute its proposals."""
        return prepare_image(pixels, longest_side=self._longest_side, proposals=self._proposals)

    def row(self, fetched: Fetched, result: Detected) -> dict[str, Any]:
        """Put the detections of an image onto the stored pixels, and compare them with its true boxes if any."""
        assert fetched.height is not None
        assert fetched.width is not None
        size = (fetched.height, fetched.width)
        boxes = _on_stored_pixels(result.boxes, result.size, size, fetched.orientation)
        found = detections_as_stored(boxes, result.labels, result.scores)
        row: dict[str, Any] = {"candidates": result.candidates, "t_select_ms": result.select_ms}
        if result.proposed is not None:
            row |= {"proposals": result.proposed, "t_propose_ms": result.propose_ms}
        right: list[bool | None] = [None] * len(boxes)
        if fetched.truth is not None:
            proposals = result.proposals
            if proposals is not None:
                proposals = _on_stored_pixels(proposals, result.size, size, fetched.orientation)
            columns, right = compare(fetched.truth, found, proposals, size, self.classes)
            row |= columns
        row["detections"] = [
            {"class": self.classes.names[label], "score": score, "correct": correct}
            | dict(zip(CORNERS, box, strict=True))
            for box, label, score, correct in zip(
                boxes.tolist(), result.labels.tolist(), result.scores.tolist(), right, strict=True
            )
        ]
        return row

    def report(self, run: str, files: Sequence[str], images: "Dataset") -> RunReport:
        """Draw the pictures, and derive the score tables if there are true boxes."""
        from pipeline.bulk.detection.page import run_page
        from pipeline.bulk.detection.tables import run_tables

        tables = run_tables(images, self.classes) if self.config.truth else {}
        return run_page(run, files, images, self.classes, tables)


def _on_stored_pixels(
    boxes: NDArray[np.float32], seen: tuple[int, int], size: tuple[int, int], orientation: int
) -> NDArray[np.float32]:
    """Return boxes in the upright image of (height, width) `seen` as boxes on the stored pixels of size `size`."""
    height, width = size[::-1] if orientation >= 5 else size
    factors = np.array([width / seen[1], height / seen[0]] * 2, np.float32)
    upright = np.clip(boxes * factors, 0, np.array([width, height] * 2, np.float32))
    return boxes_from_upright(upright, (height, width), orientation)
