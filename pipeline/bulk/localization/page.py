"""The page of a localization run: classification, boxes and maps, from the run's tables alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.bulk.kind import RunReport
from pipeline.bulk.localization.gallery import draw_gallery
from pipeline.bulk.localization.tables import CLASSIFICATION, CURVE, NAMES, SCORES
from pipeline.data.classes import Classes
from pipeline.report.blocks import Bar, Bars, Block, Chart, Headline, Line, Section, Table

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

_CLASSES_NOTE = "Accuracy is the share of the images of a class whose most probable class it is."
_BOXES_NOTE = (
    "Boxes from the maps and, as the baseline, a box at the centre of the image. A curve shows the share of images "
    "whose box has IoU 0.5 with a true one, over the threshold of the map."
)
_PICTURES_NOTE = "Boxes of the maps are red, true ones green. At most 18 pictures are shown, each in one group only."


def run_page(
    run: str, files: Sequence[str], images: "Dataset", classes: Classes, tables: Mapping[str, pa.Table]
) -> RunReport:
    """Return the report of a run with the parts of its page.

    Args:
        run: Folder of the run.
        files: Files of its rows below that folder, in order.
        images: The rows.
        classes: Classes of the model.
        tables: Report tables by name; empty for a run without ground truth.
    """
    best = None
    boxed = CURVE in tables and len(tables[CURVE]) > 0  # foreground masks alone give no boxes
    if boxed:
        steps = np.unique(tables[CURVE]["threshold"].to_numpy())
        best = int(np.abs(steps - tables[SCORES]["threshold"][0].as_py()).argmin())
    drawn = draw_gallery(run, files, images, threshold=best)
    headlines, sections = _classification(images, classes, tables)
    if SCORES in tables:
        first = tables[SCORES].to_pylist()[0]
        seen = f"{first['images']:,} images with boxes" if boxed else ""
        headlines.insert(0, Headline(first["score"].partition(" (")[0], f"{first['value']:.4f}", seen))
        blocks: list[Block] = [_curves(tables[CURVE])] if boxed else []
        blocks.append(Table.of(tables[SCORES]))
        sections.append(Section("Boxes", blocks, _BOXES_NOTE))
    if drawn.gallery.groups:
        sections.append(Section("Pictures", [drawn.gallery], _PICTURES_NOTE))
    return RunReport(dict(tables), headlines, sections, drawn.sheet)


def _classification(
    images: "Dataset", classes: Classes, tables: Mapping[str, pa.Table]
) -> tuple[list[Headline], list[Section]]:
    found = _top_classes(images)
    total = max(1, sum(count for count, _ in found.values()))
    rows: dict[str, dict[str, Any]] = {}
    if CLASSIFICATION in tables:
        rows = {row["class"]: row for row in tables[CLASSIFICATION].to_pylist()}
    mean = sum(probability for _, probability in found.values()) / total
    headlines = [Headline("mean probability", f"{mean:.3f}", "of the most probable class")]
    labelled = [row for row in rows.values() if row["images"]]
    if labelled:
        seen = sum(row["images"] for row in labelled)
        accuracy = sum(row["accuracy"] * row["images"] for row in labelled) / seen
        headlines.insert(0, Headline("accuracy", f"{accuracy:.4f}", f"over {seen:,} labels"))
    bars = []
    for name, colour in classes.colour_of.items():
        count = found.get(name, (0, 0.0))[0]
        if labelled:
            row = rows[name]
            texts = [f"{row['images']:,}", _score(row["auc"]), f"{count:,}"]
            bars.append(Bar(name, [row["accuracy"], row["average_precision"]], texts, colour))
        else:
            bars.append(Bar(name, [count / total], [f"{count:,}"], colour))
    if labelled:
        shown = Bars("class", ["accuracy", "average precision"], bars, ["labelled", "AUC", "most probable"])
        return headlines, [Section("Classes", [shown], _CLASSES_NOTE)]
    bars.sort(key=lambda bar: -(bar.values[0] or 0))
    return headlines, [Section("Classes", [Bars("most probable class", ["share of images"], bars, ["images"])])]


def _top_classes(images: "Dataset") -> dict[str, tuple[int, float]]:
    """Return how often each class is the most probable one, and the sum of its probabilities then."""
    table = images.to_table(columns=["top_class", "top_probability"], filter=pc.field("status") == "ok")
    groups = table.group_by("top_class").aggregate([("top_probability", "count"), ("top_probability", "sum")])
    return {
        row["top_class"]: (row["top_probability_count"], row["top_probability_sum"] or 0.0)
        for row in groups.to_pylist()
    }


def _curves(table: pa.Table) -> Chart:
    rows = [row for row in table.to_pylist() if row["iou"] == 0.5]
    lines = [
        Line(name, [(row["threshold"], row["gt_known"]) for row in rows if row["boxes"] == name])
        for name in NAMES.values()
    ]
    return Chart("GT-known localization at IoU 0.5", lines, "threshold", y_max=1.0, x_max=1.0)


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
