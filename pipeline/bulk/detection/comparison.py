"""The columns of an image that compare its detections and proposals with its true boxes."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.bulk.detection.truth import as_truth, boxes_from_json, in_image
from pipeline.data.box_annotations import ObjectBox
from pipeline.data.classes import Classes
from pipeline.metrics.detection import Curve
from pipeline.metrics.matching import (
    ALL_AREAS,
    COCO_AREAS,
    COCO_THRESHOLDS,
    IGNORED,
    RIGHT,
    Detections,
    coco_outcomes,
    voc_outcomes,
)
from pipeline.metrics.proposals import count_proposals
from pipeline.metrics.ranking import none_if_nan

CORNERS = ("xmin", "ymin", "xmax", "ymax")
AREAS = (ALL_AREAS, *COCO_AREAS.values())  # of the outcomes in the column `coco`, in this order
TRUE_BOX = pa.struct(
    [
        ("class", pa.string()),
        *((name, pa.float32()) for name in CORNERS),
        ("difficult", pa.bool_()),
        ("crowd", pa.bool_()),
    ]
)
FIELDS = [
    pa.field("truth", pa.list_(TRUE_BOX)),  # null for an image that is not scored
    pa.field("truth_problems", pa.int32()),  # annotated boxes that were left out, clipped or put in order
    pa.field("truth_error", pa.string()),  # the first of these problems
    pa.field("image_ap", pa.float32()),  # average precision of the image at IoU 0.5, all classes in one
    pa.field("coco", pa.list_(pa.int8())),  # [detections, areas, IoU thresholds]: 1 right, 0 wrong, -1 ignored
]
PROPOSALS_FIELD = pa.field("proposals_found", pa.list_(pa.int32()))  # true boxes covered, [IoUs, budgets]


def detections_as_stored(boxes: NDArray, labels: NDArray, scores: NDArray) -> Detections:
    """Return detections with the precision of the stored columns, so that scores are those of the rows."""
    return Detections.of(boxes.astype(np.float32), labels, scores.astype(np.float32))


def compare(
    text: str, found: Detections, proposals: NDArray | None, size: tuple[int, int], classes: Classes
) -> tuple[dict[str, Any], list[bool | None]]:
    """Compare an image with its true boxes.

    Args:
        text: True boxes, as the plan holds them.
        found: Detections on the stored pixels.
        proposals: Proposals on the stored pixels; None if the detector takes none.
        size: Height and width of the stored pixels.
        classes: Classes of the model.

    Returns:
        The columns, and whether each detection is right by VOC's rule at IoU 0.5, None if it is ignored.
    """
    inside = in_image(boxes_from_json(text), size)
    boxes = [_as_stored(box) for box in inside.boxes]
    truth = as_truth(boxes, classes)
    outcomes = voc_outcomes(found, truth)[:, 0]
    columns: dict[str, Any] = {
        "truth": [_true_box(box) for box in boxes],
        "truth_problems": inside.problems,
        "truth_error": inside.error,
        "image_ap": _image_ap(found.scores, outcomes, int((~truth.ignored).sum())),
        "coco": np.stack([coco_outcomes(found, truth, areas=areas) for areas in AREAS], axis=1).ravel(),
    }
    if proposals is not None:
        columns["proposals_found"] = count_proposals(proposals, truth).found.ravel()
    return columns, [None if outcome == IGNORED else bool(outcome == RIGHT) for outcome in outcomes]


def outcomes_of(flat: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return the values of the column `coco` of some images as [detections, areas, IoU thresholds]."""
    return flat.reshape(-1, len(AREAS), len(COCO_THRESHOLDS))


def _as_stored(box: ObjectBox) -> ObjectBox:
    left, top, right, bottom = (float(np.float32(corner)) for corner in box.corners)
    return box._replace(left=left, top=top, right=right, bottom=bottom)


def _true_box(box: ObjectBox) -> dict[str, Any]:
    corners = dict(zip(CORNERS, box.corners, strict=True))
    return {"class": box.label, "difficult": box.difficult, "crowd": box.crowd} | corners


def _image_ap(scores: NDArray, outcomes: NDArray[np.int8], positives: int) -> float | None:
    counted = outcomes != IGNORED
    order = np.argsort(-scores[counted], kind="stable")
    right = (outcomes[counted][order] == RIGHT).cumsum(dtype=np.int64)
    return none_if_nan(Curve(scores[counted][order], right, positives).average("voc10"))
