"""The page of a detection run: average precision, curves and pictures, from the run's tables alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.bulk.detection.gallery import draw_gallery
from pipeline.bulk.detection.report import TITLES, recall_by_iou
from pipeline.bulk.detection.tables import CURVES, PROPOSALS, SCORES, best_thresholds
from pipeline.bulk.kind import RunReport
from pipeline.data.classes import Classes
from pipeline.report.blocks import Bar, Bars, Block, Chart, Charts, Facts, Headline, Line, Section, Table

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

PANELS = 24  # classes with a curve: those with the most boxes
_CLASSES_NOTE = (
    "Average precision (AP) as VOC 2010 and as COCO define it. Best F1 is the largest harmonic mean of precision and "
    "recall at IoU 0.5, and the score from which on it is reached."
)
_TRUE_NOTE = (
    "Detections from the score with the best F1 of their class: green is right, red wrong, grey not counted. True "
    "boxes are blue. At most 18 pictures are shown, each in one group only."
)
_NOTE = "The best detections of each picture, at most 20. At most 6 pictures are shown."


def run_page(
    run: str, files: Sequence[str], images: "Dataset", classes: Classes, tables: Mapping[str, pa.Table]
) -> RunReport:
    """Return the report of a run with the parts of its page.

    Args:
        run: Folder of the run.
        files: Files of its rows below that folder, in order.
        images: The rows.
        classes: Classes of the model.
        tables: Report tables by name; empty for a run without true boxes.
    """
    scored = SCORES in tables
    drawn = draw_gallery(run, files, images, classes, thresholds=best_thresholds(tables) if scored else None)
    if scored:
        headlines, sections = _headlines(tables), _scores(tables, images, classes)
    else:
        counts = class_counts(images, classes)
        total = sum(count for count, _ in counts.values())
        computed = images.count_rows(filter=pc.field("status") == "ok")
        headlines = [Headline("detections", f"{total:,}", f"{total / computed:.1f} in an image" if computed else "")]
        sections = [Section("Classes", [_found(counts, classes)])]
    if drawn.gallery.groups:
        sections.append(Section("Pictures", [drawn.gallery], _TRUE_NOTE if scored else _NOTE))
    return RunReport(dict(tables), headlines, sections, drawn.sheet)


def class_counts(images: "Dataset", classes: Classes) -> dict[str, tuple[int, float]]:
    """Return the number of detections of each class, and the sum of their scores."""
    names = pa.array(classes.names)
    counts, scores = np.zeros(len(names), np.int64), np.zeros(len(names))
    for batch in images.to_batches(columns=["detections"]):
        boxes = batch["detections"].flatten()
        labels = pc.index_in(boxes.field("class"), names).to_numpy(zero_copy_only=False).astype(int)
        counts += np.bincount(labels, minlength=len(names))
        scores += np.bincount(labels, boxes.field("score").to_numpy().astype(float), minlength=len(names))
    return {name: (int(counts[k]), float(scores[k])) for k, name in enumerate(classes.names)}


def _found(counts: Mapping[str, tuple[int, float]], classes: Classes) -> Bars:
    total = max(1, sum(count for count, _ in counts.values()))
    ranked = sorted(counts.items(), key=lambda item: -item[1][0])
    bars = [
        Bar(name, [count / total], [f"{count:,}", f"{score / count:.3f}" if count else "–"], classes.colour_of[name])
        for name, (count, score) in ranked
    ]
    return Bars("class", ["share of detections"], bars, ["detections", "mean score"])


def _headlines(tables: Mapping[str, pa.Table]) -> list[Headline]:
    total = tables[SCORES].to_pylist()[-1]
    return [
        Headline("mean AP, COCO", _score(total["coco"]), "IoU 0.5 to 0.95"),
        Headline("mean AP, VOC 2010", _score(total["voc10"]), "IoU 0.5"),
        Headline("true boxes", f"{total['boxes']:,}", f"in {total['images']:,} scored images"),
        Headline("detections", f"{total['detections']:,}"),
    ]


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _scores(tables: Mapping[str, pa.Table], images: "Dataset", classes: Classes) -> list[Section]:
    *rows, total = tables[SCORES].to_pylist()
    bars = [
        Bar(
            row["class"],
            [row["voc10"], row["coco"]],
            [f"{row['boxes']:,}", f"{row['detections']:,}", _score(row["best_f1"]), _score(row["best_score"])],
            classes.colour_of[row["class"]],
        )
        for row in rows
    ]
    facts: dict[str, Any] = {f"mean AP, {title}": total[name] for name, title in TITLES.items()}
    facts["boxes that do not count"] = total["not_counted"]
    facts["problems of true boxes (column truth_error)"] = _sum(images, "truth_problems")
    headings = ["boxes", "detections", "best F1", "from score"]
    sections = [
        Section("Scores", [Facts(facts)]),
        Section("Classes", [Bars("class", ["AP VOC 2010", "AP COCO"], bars, headings)], _CLASSES_NOTE),
    ]
    curves = curve_charts(tables)
    if curves:
        sections.append(Section("Precision over recall", [Charts(curves)], "At IoU 0.5; classes with the most boxes."))
    if PROPOSALS in tables:
        sections.append(
            Section("Proposals", proposal_blocks(tables[PROPOSALS]), "Share of true boxes that are covered.")
        )
    return sections


def curve_charts(tables: Mapping[str, pa.Table]) -> list[Chart]:
    """Return the curve of each class with true boxes, of at most `PANELS` classes."""
    scores = [row for row in tables[SCORES].to_pylist() if row["class"] is not None and row["boxes"]]
    shown = sorted(scores, key=lambda row: -row["boxes"])[:PANELS]
    points: dict[str, list[tuple[float, float]]] = {row["class"]: [] for row in shown}
    for row in tables[CURVES].to_pylist():
        if row["class"] in points:
            points[row["class"]].append((row["recall"], row["precision"]))
    return [
        Chart(
            f"{row['class']}: AP {_score(row['voc10'])}, {row['boxes']:,} boxes",
            [Line("precision", points[row["class"]])],
            "recall",
            y_max=1.0,
            x_max=1.0,
        )
        for row in shown
    ]


def proposal_blocks(table: pa.Table) -> list[Block]:
    """Return the recall of the proposals as a chart and a table; a run without boxes has no chart."""
    by_iou = recall_by_iou(table)
    lines = [
        Line(f"IoU {iou:g}", [(float(n), recall) for n, recall in recalls.items() if recall is not None])
        for iou, recalls in by_iou.items()
    ]
    budgets = list(next(iter(by_iou.values()), {}))
    rows = [[budget, *(recalls[budget] for recalls in by_iou.values())] for budget in budgets]
    blocks: list[Block] = []
    if any(line.points for line in lines):
        blocks.append(Chart("Recall of the proposals", lines, "proposals of an image", y_max=1.0, log=True))
    return [*blocks, Table(["proposals", *(f"recall at IoU {iou:g}" for iou in by_iou)], rows)]


def _sum(images: "Dataset", column: str) -> int:
    return sum(pc.sum(batch[column]).as_py() or 0 for batch in images.to_batches(columns=[column]))
