"""The charts of a detection run's page."""

import pyarrow as pa

from pipeline.bulk.detection.tables import CURVES, PROPOSALS, SCORES
from pipeline.report.charts import Line, draw_lines, draw_panels

PANELS = 40  # classes with a chart: those with the most boxes


def draw_charts(tables: dict[str, pa.Table]) -> dict[str, bytes]:
    """Draw the curve of each class and, if there are any, the recall of the proposals; PNGs by heading."""
    scores = [row for row in tables[SCORES].to_pylist() if row["class"] is not None and row["boxes"]]
    shown = sorted(scores, key=lambda row: -row["boxes"])[:PANELS]
    points: dict[str, list[tuple[float, float]]] = {row["class"]: [] for row in shown}
    for row in tables[CURVES].to_pylist():
        if row["class"] in points:
            points[row["class"]].append((row["recall"], row["precision"]))
    panels = {f"{row['class']}: AP {row['voc10']:.3f}, {row['boxes']:,} boxes": points[row["class"]] for row in shown}
    charts = {}
    if panels:
        heading = "Precision over recall at IoU 0.5"
        charts[heading] = draw_panels(panels, x_label="recall", y_label="precision")
    if PROPOSALS in tables:
        rows = [row for row in tables[PROPOSALS].to_pylist() if row["recall"] is not None]
        lines = [
            Line(f"IoU {iou:g}", [(row["proposals"], row["recall"]) for row in rows if row["iou"] == iou])
            for iou in sorted({row["iou"] for row in rows})
        ]
        if lines:
            charts["Share of the true boxes that proposals cover"] = draw_lines(
                lines, x_label="proposals of an image", y_label="recall"
            )
    return charts
