"""The mIoU tables of a run: class_report, dataset_report and confusion, from the counts of its images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.data.classes import Classes
from pipeline.metrics.ranking import none_if_nan
from pipeline.metrics.segmentation import Confusion

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

RAW = "raw"  # the network's own masks
CRF = "crf"  # the masks as a CRF has refined them

CLASS_SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("class_index", pa.int32()),
        ("class", pa.string()),
        ("tp", pa.int64()),
        ("gt", pa.int64()),
        ("pred", pa.int64()),
        ("iou", pa.float64()),
        ("accuracy", pa.float64()),
    ]
)
DATASET_SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("images", pa.int64()),
        ("errors", pa.int64()),
        ("scored_images", pa.int64()),
        ("label_errors", pa.int64()),
        ("pixel_accuracy", pa.float64()),
        ("mean_accuracy", pa.float64()),
        ("miou", pa.float64()),
        ("miou_gt_only", pa.float64()),
        ("fwiou", pa.float64()),
        ("ignored_px", pa.int64()),
        ("invalid_label_px", pa.int64()),
        ("invalid_prediction_px", pa.int64()),
    ]
)
CONFUSION_SCHEMA = pa.schema([("stage", pa.string()), ("gt", pa.int32()), ("pred", pa.int32()), ("pixels", pa.int64())])


@dataclass(frozen=True)
class ImageCounts:
    """Numbers of images of a run.

    Attributes:
        images: All images.
        errors: Images without a mask.
        scored_images: Images that were compared with a label map.
        label_errors: Images whose label map could not be used.
    """

    images: int
    errors: int
    scored_images: int = 0
    label_errors: int = 0


def run_tables(images: "Dataset", classes: Classes) -> dict[str, pa.Table]:
    """Derive the tables of a run from its rows.

    Args:
        images: Rows of a run with label maps.
        classes: Classes of the masks.

    Returns:
        See `report_tables`.
    """
    stages = {stage_of(images): confusion_of(images, len(classes))}
    if stage_of(images) == CRF:
        stages = {RAW: confusion_of(images, len(classes), column="confusion_raw")} | stages
    return report_tables(stages, count_images(images), classes)


def count_images(images: "Dataset") -> ImageCounts:
    """Count the images of a run with label maps."""
    query = "SELECT count(*), count(*) FILTER (status = 'error'), count(tp), count(label_error) FROM images"
    return ImageCounts(*_row(query, images))


def stage_of(images: "Dataset") -> str:
    """Return the stage that made the masks of a run."""
    return CRF if "crf_changed_px" in images.schema.names else RAW


def confusion_of(images: "Dataset", num_classes: int, *, column: str = "confusion") -> Confusion:
    """Sum the counts of the images of a run with label maps, in int64."""
    cells = _rows(
        f"SELECT c.gt, c.pred, sum(c.px)::BIGINT FROM (SELECT unnest({column}) AS c FROM images) GROUP BY ALL", images
    )
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for gt, pred, pixels in cells:
        matrix[gt, pred] = pixels
    ignored, invalid = _row(
        "SELECT coalesce(sum(ignored_px), 0)::BIGINT, coalesce(sum(invalid_label_px), 0)::BIGINT FROM images", images
    )
    return Confusion(matrix, ignored=ignored, invalid_label=invalid)


def _rows(query: str, images: "Dataset") -> list[tuple[Any, ...]]:
    # A pyarrow data set reads through our own file system; DuckDB's handles for fsspec give wrong sums.
    import duckdb  # here, because the workers that import this module need none

    with duckdb.connect() as connection:
        connection.register("images", images)
        return connection.execute(query).fetchall()


def _row(query: str, images: "Dataset") -> tuple[Any, ...]:
    return _rows(query, images)[0]


def report_tables(stages: dict[str, Confusion], images: ImageCounts, classes: Classes) -> dict[str, pa.Table]:
    """Return the tables class_report, dataset_report and confusion, by name, with rows for each stage.

    Undefined scores, such as the IoU of a class that never occurs, are null.

    Args:
        stages: The confusion of each stage.
        images: Numbers of images.
        classes: Classes of the masks.
    """
    by_class = [row for stage, counts in stages.items() for row in _class_rows(stage, counts, classes)]
    whole = [_dataset_row(stage, counts, images) for stage, counts in stages.items()]
    cells = [
        {"stage": stage, "gt": int(g), "pred": int(p), "pixels": int(counts.matrix[g, p])}
        for stage, counts in stages.items()
        for g, p in zip(*np.nonzero(counts.matrix), strict=True)
    ]
    return {
        "class_report": pa.Table.from_pylist(by_class, schema=CLASS_SCHEMA),
        "dataset_report": pa.Table.from_pylist(whole, schema=DATASET_SCHEMA),
        "confusion": pa.Table.from_pylist(cells, schema=CONFUSION_SCHEMA),
    }


def _class_rows(stage: str, counts: Confusion, classes: Classes) -> list[dict[str, Any]]:
    scores = counts.scores
    tp, gt, pred = np.diag(counts.matrix), counts.matrix.sum(axis=1), counts.matrix.sum(axis=0)
    return [
        {
            "stage": stage,
            "class_index": k,
            "class": name,
            "tp": int(tp[k]),
            "gt": int(gt[k]),
            "pred": int(pred[k]),
            "iou": none_if_nan(scores.iou[k]),
            "accuracy": none_if_nan(scores.accuracy[k]),
        }
        for k, name in enumerate(classes.names)
    ]


def _dataset_row(stage: str, counts: Confusion, images: ImageCounts) -> dict[str, Any]:
    scores = counts.scores
    return {
        "stage": stage,
        "images": images.images,
        "errors": images.errors,
        "scored_images": images.scored_images,
        "label_errors": images.label_errors,
        "pixel_accuracy": none_if_nan(scores.pixel_accuracy),
        "mean_accuracy": none_if_nan(scores.mean_accuracy),
        "miou": none_if_nan(scores.miou),
        "miou_gt_only": none_if_nan(scores.miou_gt_only),
        "fwiou": none_if_nan(scores.fwiou),
        "ignored_px": counts.ignored,
        "invalid_label_px": counts.invalid_label,
        "invalid_prediction_px": counts.invalid_prediction,
    }


def format_report(tables: dict[str, pa.Table]) -> str:
    """Format the class table and the headline for a terminal: the stages side by side, and the gain of the last."""
    whole = tables["dataset_report"].to_pylist()
    stages = [row["stage"] for row in whole]
    by_class: dict[str, list[dict[str, Any]]] = {}
    for row in tables["class_report"].to_pylist():
        by_class.setdefault(row["class"], []).append(row)
    total = max(1, sum(rows[0]["gt"] for rows in by_class.values()))
    width = max(5, *(len(name) for name in by_class))
    one = len(stages) == 1
    heads = "     IoU" if one else "".join(f"{'IoU ' + stage:>10}" for stage in stages) + "      gain"
    lines = [f"{'class':<{width}}{heads}  accuracy   pixels"]
    for name, rows in by_class.items():
        scores = _gains([row["iou"] for row in rows], spaces=2 if one else 4)
        lines.append(f"{name:<{width}}{scores}    {_score(rows[-1]['accuracy'])}  {rows[0]['gt'] / total:7.2%}")
    if not one:
        lines.append(f"{'mIoU':<{width}}{_gains([row['miou'] for row in whole], spaces=4)}")
    last = whole[-1]
    lines.append(
        f"mIoU {_score(last['miou']).strip()} (classes in ground truth only: {_score(last['miou_gt_only']).strip()})"
        f"   pixel accuracy {_score(last['pixel_accuracy']).strip()}   mean accuracy "
        f"{_score(last['mean_accuracy']).strip()}   frequency-weighted IoU {_score(last['fwiou']).strip()}"
    )
    lines.append(
        f"{last['scored_images']} of {last['images']} images scored, {last['errors']} errors, "
        f"{last['label_errors']} unusable label maps, {last['ignored_px']} pixels ignored, "
        f"{last['invalid_label_px']} with an invalid label"
    )
    return "\n".join(lines)


def _gains(values: list[float | None], *, spaces: int) -> str:
    """Format a score of each stage and, for several stages, the last minus the first."""
    text = "".join(" " * spaces + _score(value) for value in values)
    first, last = values[0], values[-1]
    if len(values) == 1 or first is None or last is None:
        return text
    return f"{text}   {last - first:+.4f}"


def _score(value: float | None) -> str:
    return "     –" if value is None else f"{value:6.4f}"
