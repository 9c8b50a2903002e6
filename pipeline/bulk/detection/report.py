"""The score tables of a detection run for people: on a terminal, and on the page."""

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.bulk.detection.tables import PROPOSALS, SCORES

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

TITLES = {
    "voc07": "VOC 2007 (11 points, IoU 0.5)",
    "voc10": "VOC 2010 (area, IoU 0.5)",
    "coco": "COCO, IoU 0.5 to 0.95",
    "coco50": "COCO, IoU 0.5",
    "coco75": "COCO, IoU 0.75",
    "coco_small": "COCO, boxes below 32² pixels",
    "coco_medium": "COCO, boxes of 32² to 96² pixels",
    "coco_large": "COCO, boxes above 96² pixels",
}
SHOWN = ("voc07", "voc10", "coco", "coco50", "coco75")  # in the terminal's columns
BUDGETS_SHOWN = (10, 100, 300, 1000, 2000, 10_000)


def format_scores(tables: dict[str, pa.Table]) -> str:
    """Format the tables for a terminal."""
    rows = tables[SCORES].to_pylist()
    width = max(5, *(len(row["class"] or "mean") for row in rows))
    lines = [f"{'class':<{width}}   boxes  detections  " + "  ".join(f"{name:>6}" for name in SHOWN)]
    for row in rows:
        cells = "  ".join(f"{_cell(row[name]):>6}" for name in SHOWN)
        lines.append(f"{row['class'] or 'mean':<{width}}  {row['boxes']:>6}  {row['detections']:>10}  {cells}")
    lines.append(f"{rows[-1]['images']:,} images scored; mean AP is the mean over the classes with boxes")
    if PROPOSALS in tables:
        for iou, recalls in _recall_by_iou(tables[PROPOSALS]).items():
            cells = ", ".join(f"{_cell(recalls[n])} of {n:,}" for n in BUDGETS_SHOWN if n in recalls)
            lines.append(f"recall of the proposals at IoU {iou:g}: {cells}")
    return "\n".join(lines)


def page_tables(tables: dict[str, pa.Table], images: "Dataset") -> dict[str, pa.Table]:
    """Return the tables of the page by heading.

    Args:
        tables: Score tables by name.
        images: The rows.
    """
    *classes, total = tables[SCORES].to_pylist()
    facts: dict[str, Any] = {"images scored": total["images"], "true boxes": total["boxes"]}
    facts["problems of true boxes (column truth_error)"] = _sum(images, "truth_problems")
    facts |= {f"mean AP, {title}": total[name] for name, title in TITLES.items()}
    shown = {"Scores": pa.table({"": list(facts), " ": [_number(value) for value in facts.values()]})}
    shown["Classes"] = pa.Table.from_pylist(classes, schema=tables[SCORES].schema)
    if PROPOSALS in tables:
        by_iou = _recall_by_iou(tables[PROPOSALS])
        columns: dict[str, Any] = {"proposals": list(next(iter(by_iou.values())))}
        columns |= {f"recall at IoU {iou:g}": list(recalls.values()) for iou, recalls in by_iou.items()}
        shown["Recall of the proposals"] = pa.table(columns)
    return shown


def _recall_by_iou(table: pa.Table) -> dict[float, dict[int, float | None]]:
    recalls: dict[float, dict[int, float | None]] = {}
    for row in table.to_pylist():
        recalls.setdefault(row["iou"], {})[row["proposals"]] = row["recall"]
    return recalls


def _sum(images: "Dataset", column: str) -> int:
    sums = (pc.sum(batch[column]).as_py() for batch in images.to_batches(columns=[column]))
    return sum(value or 0 for value in sums)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _number(value: float | None) -> str:
    return f"{value:,}" if isinstance(value, int) else _cell(value)
