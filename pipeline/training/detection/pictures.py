"""Pictures of a training run of a detector: its examples, and its detections in validation images."""

import contextlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.classes import Classes
from pipeline.data.datasets import SampleError
from pipeline.predict.detector import Detector
from pipeline.report.box_sheet import BoxPicture, LabelledBox, draw_box_sheet
from pipeline.training.detection.survey import surveyed
from pipeline.training.detection.validation import read_row
from pipeline.training.examples import TrainingData

EXAMPLES = 8
PICTURES = 4  # validation images of a sheet
DRAWN = 30  # detections of an image that are drawn at most
PROPOSALS = 60  # the same for proposals
GREY = (150, 150, 150)


def draw_examples(data: TrainingData, classes: Classes) -> bytes:
    """Draw the first training examples of a run with what is learnt from them, as PNG.

    Raises:
        UserError: No image can be used.
    """
    drawn = data.draw(data.table, 0, range(EXAMPLES))
    pictures = []
    for key, pixels, own in zip(drawn.keys, drawn.pixels, drawn.labels, strict=True):
        proposals = [LabelledBox(box, GREY, "") for box in own.proposals[:PROPOSALS].tolist()]
        truth = labelled(own.boxes, own.labels, classes)
        pictures.append(BoxPicture(key, pixels, [truth, proposals] if proposals else [truth]))
    headings = ["boxes", f"the first {PROPOSALS} proposals"] if len(pictures[0].columns) == 2 else ["boxes"]
    return draw_box_sheet(pictures, headings)


def draw_detections(
    detector: Detector, table: pa.Table, indices: Iterable[int], classes: Classes, titles: dict[int, str]
) -> bytes:
    """Draw the first few usable images with boxes and detections, as PNG; empty if none can be read.

    Args:
        detector: The detector.
        table: Survey of the images.
        indices: Rows of the table.
        classes: Classes of the data set.
        titles: Title of a row, if not its key.
    """
    pictures: list[BoxPicture] = []
    for index in indices:
        row = surveyed(table, index)
        with contextlib.suppress(SampleError):
            pixels = read_row(row)
            (found,) = detector([pixels], [row.proposals])
            named = zip(found.labels, found.scores, strict=True)
            texts = [f"{classes.names[label]} {score:.2f}" for label, score in named]
            # The best ones are drawn last, over the others.
            detections = labelled(found.boxes, found.labels, classes, texts)[:DRAWN][::-1]
            truth = labelled(row.boxes, row.labels, classes)
            pictures.append(BoxPicture(titles.get(index, row.key), pixels, [truth, detections]))
        if len(pictures) == PICTURES:
            break
    return draw_box_sheet(pictures, ["truth", "detections"]) if pictures else b""


def labelled(
    boxes: NDArray, labels: NDArray, classes: Classes, texts: Sequence[str] | None = None
) -> list[LabelledBox]:
    """Return boxes in the colours of their classes, with the classes' names if there are no other texts."""
    colours = [(int(r), int(g), int(b)) for r, g, b in np.asarray(classes.palette)[labels]]
    names = texts or [classes.names[label] for label in labels]
    return [LabelledBox(*parts) for parts in zip(np.asarray(boxes).tolist(), colours, names, strict=True)]
