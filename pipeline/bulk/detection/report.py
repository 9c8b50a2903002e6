"""The score tables of a detection run for people, on a terminal."""

import pyarrow as pa

from pipeline.bulk.detection.tables import PROPOSALS, SCORES

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
        for iou, recalls in recall_by_iou(tables[PROPOSALS]).items():
            cells = ", ".join(f"{_cell(recalls[n])} of {n:,}" for n in BUDGETS_SHOWN if n in recalls)
            lines.append(f"recall of the proposals at IoU {iou:g}: {cells}")
    return "\n".join(lines)


def recall_by_iou(table: pa.Table) -> dict[float, dict[int, float | None]]:
    """Return the recall of the first n proposals, by n, for each IoU."""
    recalls: dict[float, dict[int, float | None]] = {}
    for row in table.to_pylist():
        recalls.setdefault(row["iou"], {})[row["proposals"]] = row["recall"]
    return recalls


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
