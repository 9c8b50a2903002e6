"""The score tables of a detection run, from the rows of its images; see `comparison` for the columns."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.bulk.detection.comparison import AREAS, CORNERS, outcomes_of
from pipeline.data.classes import Classes
from pipeline.metrics.boxes import box_areas
from pipeline.metrics.detection import Curve, average_precisions, curve, mean_over_classes
from pipeline.metrics.matching import COCO_AREAS, COCO_THRESHOLDS, IGNORED, RIGHT, WRONG, Matches
from pipeline.metrics.proposals import BUDGETS, IOUS
from pipeline.metrics.ranking import none_if_nan

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

SCORES = "detection_report"
CURVES = "curves"
PROPOSALS = "proposal_recall"
POINTS = 1000  # of a curve in the table

AVERAGES = ("voc07", "voc10", "coco", "coco50", "coco75", *(f"coco_{name}" for name in COCO_AREAS))
SCORES_SCHEMA = pa.schema(
    [
        ("class", pa.string()),  # null in the last row: sums, and means over the classes with boxes
        ("images", pa.int64()),  # images with a box of the class; in the last row, all that are scored
        ("boxes", pa.int64()),  # to be found
        ("not_counted", pa.int64()),  # difficult boxes and crowds
        ("detections", pa.int64()),
        *((name, pa.float64()) for name in AVERAGES),
        ("best_f1", pa.float64()),  # largest F1 at IoU 0.5
        ("best_score", pa.float64()),  # score of the last detection that counts for it
    ]
)
CURVES_SCHEMA = pa.schema(
    [
        ("class", pa.string()),
        ("detections", pa.int64()),  # the detections down to this score that are not ignored
        ("score", pa.float32()),
        ("recall", pa.float64()),
        ("precision", pa.float64()),
    ]
)
PROPOSALS_SCHEMA = pa.schema(
    [
        ("iou", pa.float64()),
        ("proposals", pa.int32()),  # the first ones of each image
        ("boxes", pa.int64()),  # true boxes to be found
        ("covered", pa.int64()),  # those that one of these proposals covers with this IoU
        ("recall", pa.float64()),
    ]
)


class Scored(NamedTuple):
    """What the rows of a run say about its scores; about 70 bytes for each detection.

    Attributes:
        voc: Matches by VOC's rule at IoU 0.5.
        coco: Matches by COCO's rule, for each of the `AREAS`.
        images: Images with a box of each class, int64 [classes].
        not_counted: Difficult boxes and crowds of each class, int64 [classes].
        scored: Number of images with known boxes.
        covered: True boxes that proposals cover, int64 [IoUs, budgets]; None if the detector takes none.
        proposals: Largest number of proposals of an image.
    """

    voc: Matches
    coco: list[Matches]
    images: NDArray[np.int64]
    not_counted: NDArray[np.int64]
    scored: int
    covered: NDArray[np.int64] | None
    proposals: int


def run_tables(images: "Dataset", classes: Classes) -> dict[str, pa.Table]:
    """Derive the tables by name.

    Args:
        images: Rows of a run with true boxes.
        classes: Classes of the model.
    """
    scored = read_scored(images, classes)
    curves = [curve(scored.voc, k) for k in range(len(classes))]
    tables = {
        SCORES: pa.Table.from_pylist(_score_rows(scored, curves, classes), schema=SCORES_SCHEMA),
        CURVES: pa.concat_tables(_curve_table(name, c) for name, c in zip(classes.names, curves, strict=True)),
    }
    if scored.covered is not None:
        tables[PROPOSALS] = _proposal_table(scored.covered, int(scored.voc.positives.sum()), most=scored.proposals)
    return tables


def read_scored(images: "Dataset", classes: Classes) -> Scored:
    """Read the matches of all images with known boxes, a batch of rows at a time."""
    count = len(classes)
    names = pa.array(classes.names)
    has_proposals = "proposals_found" in images.schema.names
    columns = ["detections", "truth", "coco", *(["proposals_found", "proposals"] if has_proposals else [])]
    voc = [Matches.zeros(count, 1)]
    coco = [[Matches.zeros(count, len(COCO_THRESHOLDS))] for _ in AREAS]
    with_class, not_counted = np.zeros(count, np.int64), np.zeros(count, np.int64)
    covered = np.zeros((len(IOUS), len(BUDGETS)), np.int64)
    scored = most = 0
    for batch in images.to_batches(columns=columns):
        rows = batch.filter(pc.is_valid(batch["truth"]))
        labels, flat, sizes = _flattened(rows["detections"], names)
        orders = np.repeat(np.arange(scored, scored + rows.num_rows), sizes)
        ranks = (np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)).astype(np.int32)
        right = np.where(flat["correct"].fill_null(False).to_numpy(zero_copy_only=False), RIGHT, WRONG).astype(np.int8)
        right[flat["correct"].is_null().to_numpy(zero_copy_only=False)] = IGNORED
        # As the detections of a class in an image are in the order of their scores, ranks are their positions.
        common = (labels, flat["score"].to_numpy().astype(np.float64), orders, ranks)
        true_labels, true_boxes, true_sizes = _flattened(rows["truth"], names)
        counts = ~(_flags(true_boxes, "difficult") | _flags(true_boxes, "crowd"))
        areas = box_areas(np.stack([true_boxes[name].to_numpy() for name in CORNERS], axis=1))

        def positives(least: float, largest: float) -> NDArray[np.int64]:
            wanted = counts & (areas >= least) & (areas <= largest)  # noqa: B023  (called in this round)
            return np.bincount(true_labels[wanted], minlength=count)  # noqa: B023

        voc.append(Matches(*common, right[:, None], positives(*AREAS[0])))
        outcomes = outcomes_of(rows["coco"].flatten().to_numpy())
        for a, area in enumerate(AREAS):
            coco[a].append(Matches(*common, outcomes[:, a], positives(*area)))
        in_image = np.unique(np.repeat(np.arange(rows.num_rows), true_sizes) * count + true_labels)
        with_class += np.bincount(in_image % count, minlength=count)
        not_counted += np.bincount(true_labels[~counts], minlength=count)
        if has_proposals:
            found = rows["proposals_found"].flatten().to_numpy()
            covered += found.reshape(-1, *covered.shape).sum(axis=0)
            most = max(most, pc.max(rows["proposals"]).as_py() or 0)
        scored += rows.num_rows
    return Scored(
        Matches.merged(voc),
        [Matches.merged(parts) for parts in coco],
        with_class,
        not_counted,
        scored,
        covered if has_proposals else None,
        most,
    )


def _flattened(column: pa.ListArray, names: pa.Array) -> tuple[NDArray[np.int32], dict[str, Any], NDArray[np.int64]]:
    """Return classes and fields of the boxes in a column of lists, and the length of each list."""
    boxes = column.flatten()
    fields = {field.name: boxes.field(field.name) for field in boxes.type}
    labels = pc.index_in(fields["class"], names).to_numpy().astype(np.int32)
    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    return labels, fields, sizes


def _flags(fields: dict[str, Any], name: str) -> NDArray[np.bool_]:
    return fields[name].to_numpy(zero_copy_only=False).astype(bool)


def _score_rows(scored: Scored, curves: list[Curve], classes: Classes) -> list[dict[str, Any]]:
    coco = [average_precisions(matches, "coco") for matches in scored.coco]
    over_ious = [np.where(np.isnan(ap[:, 0]), np.nan, ap.mean(axis=1)) for ap in coco]
    averages = {
        "voc07": np.array([c.average("voc07") for c in curves]),
        "voc10": np.array([c.average("voc10") for c in curves]),
        "coco": over_ious[0],
        "coco50": coco[0][:, 0],
        "coco75": coco[0][:, COCO_THRESHOLDS.index(0.75)],
        **{f"coco_{name}": values for name, values in zip(COCO_AREAS, over_ious[1:], strict=True)},
    }
    detections = np.bincount(scored.voc.labels, minlength=len(classes))
    counts = {"boxes": scored.voc.positives, "not_counted": scored.not_counted, "detections": detections}
    rows = [
        {"class": name, "images": int(scored.images[k])}
        | {column: int(values[k]) for column, values in counts.items()}
        | {column: none_if_nan(values[k]) for column, values in averages.items()}
        | _best_f1(curves[k])
        for k, name in enumerate(classes.names)
    ]
    means: dict[str, Any] = {name: none_if_nan(mean_over_classes(values)) for name, values in averages.items()}
    sums = {column: int(values.sum()) for column, values in counts.items()}
    return [*rows, {"class": None, "images": scored.scored} | sums | means]


def _best_f1(points: Curve) -> dict[str, float | None]:
    """Return the largest F1 over all scores, and the score at which it is reached."""
    if not points.positives or not len(points.right) or not points.right[-1]:
        return {"best_f1": None, "best_score": None}
    f1 = 2 * points.right / (np.arange(1, len(points.right) + 1) + points.positives)
    best = int(f1.argmax())
    return {"best_f1": float(f1[best]), "best_score": float(points.scores[best])}


def _curve_table(name: str, points: Curve) -> pa.Table:
    """Return up to `POINTS` points of a curve, evenly spaced over the right detections, and its last point."""
    steps = np.flatnonzero(np.diff(points.right, prepend=0)) if points.positives else np.zeros(0, np.int64)
    if len(points.right) and points.positives:
        steps = np.unique(np.append(steps, len(points.right) - 1))
    if len(steps) > POINTS:
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, POINTS).round().astype(int))]
    columns = {
        "class": [name] * len(steps),
        "detections": steps + 1,
        "score": points.scores[steps].astype(np.float32),
        "recall": points.recall[steps],
        "precision": points.precision[steps],
    }
    return pa.table(columns, schema=CURVES_SCHEMA)


def _proposal_table(covered: NDArray[np.int64], boxes: int, *, most: int) -> pa.Table:
    """Return the recall of the first n proposals, up to the first n that no image exceeds."""
    last = sum(budget < most for budget in BUDGETS)
    rows = [
        {
            "iou": iou,
            "proposals": budget,
            "boxes": boxes,
            "covered": int(covered[i, b]),
            "recall": float(covered[i, b] / boxes) if boxes else None,
        }
        for i, iou in enumerate(IOUS)
        for b, budget in enumerate(BUDGETS[: last + 1])
    ]
    return pa.Table.from_pylist(rows, schema=PROPOSALS_SCHEMA)


def best_thresholds(tables: Mapping[str, pa.Table]) -> dict[str, float]:
    """Return the score with the largest F1 of each class that has one."""
    rows = tables[SCORES].to_pylist()
    return {row["class"]: row["best_score"] for row in rows if row["best_score"] is not None}
