"""The page of a segmentation run: scores, classes, confusions and pictures, from the run's tables alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.bulk.kind import RunReport
from pipeline.bulk.segmentation.gallery import draw_gallery
from pipeline.bulk.segmentation.ranking import read_numbers
from pipeline.data.classes import Classes
from pipeline.report.blocks import Bar, Bars, Beside, Block, Headline, Matrix, Section, Table, Text

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

MOST_CONFUSED = 30  # classes of the matrix
CONFUSIONS = 12  # lines of the list of confusions
STAGES = {"raw": "network", "crf": "after the CRF"}


def run_page(
    run: str, files: Sequence[str], images: "Dataset", classes: Classes, tables: Mapping[str, pa.Table]
) -> RunReport:
    """Return the report of a run with the parts of its page.

    Args:
        run: Folder of the run.
        files: Files of its rows below that folder, in order.
        images: The rows.
        classes: Classes of the masks.
        tables: Report tables by name; empty for a run without label maps.
    """
    numbers = read_numbers(images)
    pixels, present = class_pixels(images, classes)
    drawn = draw_gallery(run, files, images.schema.names, numbers, classes)
    sections = [Section("Classes", _classes(classes, pixels, present, int(numbers.is_ok.sum()), tables), _NOTE)]
    if "confusion" in tables and len(tables["confusion"]):
        sections.append(Section("Confusion", _confusion(classes, tables), _CONFUSION_NOTE))
    if drawn.gallery.groups:
        sections.append(Section("Pictures", [drawn.gallery], _PICTURES_NOTE))
    return RunReport(dict(tables), _headlines(tables, numbers.entropy, numbers.changed), sections, drawn.sheet)


_NOTE = "IoU is intersection over union. Share is the part of all predicted or labelled pixels."
_CONFUSION_NOTE = "What the pixels of a true class were taken for. Ignored pixels do not count."
_PICTURES_NOTE = (
    "Choose a view, or a class to see it alone. A picture stands in one group only; the random group is a draw from "
    "the other images of the run. At most 30 pictures are shown."
)


def class_pixels(images: "Dataset", classes: Classes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the predicted pixels of each class, and the images that show it."""
    columns = [f"px_{slug}" for slug in classes.slugs]
    pixels, present = np.zeros(len(columns), np.int64), np.zeros(len(columns), np.int64)
    for batch in images.to_batches(columns=columns):
        for k, column in enumerate(columns):
            pixels[k] += pc.sum(batch[column].cast(pa.int64())).as_py() or 0
            present[k] += pc.sum(pc.greater(batch[column], 0)).as_py() or 0
    return pixels, present


def _headlines(
    tables: Mapping[str, pa.Table], entropy: NDArray[np.float64], changed: NDArray[np.float64]
) -> list[Headline]:
    lines = []
    if "dataset_report" in tables:
        *_, last = stages = tables["dataset_report"].to_pylist()
        gain = ""
        if len(stages) > 1 and last["miou"] is not None:
            gain = f"{last['miou'] - stages[0]['miou']:+.4f} by the CRF, from {stages[0]['miou']:.4f}"
        lines.append(Headline("mIoU", _score(last["miou"]), gain))
        scored = f"{last['scored_images']:,} images scored"
        scored += f", {last['label_errors']:,} unusable label maps" if last["label_errors"] else ""
        lines.append(Headline("pixel accuracy", _score(last["pixel_accuracy"]), scored))
        lines.append(Headline("mean accuracy", _score(last["mean_accuracy"]), f"FW IoU {_score(last['fwiou'])}"))
    if np.isfinite(entropy).any() and len(lines) == 0:
        lines.append(Headline("mean entropy", f"{np.nanmean(entropy):.3f}", "of the predictions"))
    if np.isfinite(changed).any():
        lines.append(Headline("changed by the CRF", f"{np.nanmean(changed):.2%}", "of an image's pixels, on average"))
    return lines


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _classes(
    classes: Classes,
    pixels: NDArray[np.int64],
    present: NDArray[np.int64],
    images: int,
    tables: Mapping[str, pa.Table],
) -> list[Block]:
    """Return a row of bars per class: IoU of each stage if there are label maps, otherwise shares of the pixels."""
    share = pixels / max(1, pixels.sum())
    palette = list(classes.colour_of.values())
    if "class_report" not in tables:
        order = np.argsort(-share, kind="stable").tolist()
        bars = [
            Bar(
                classes.names[k],
                [float(share[k])],
                [f"{present[k]:,}", f"{present[k] / max(1, images):.1%}"],
                palette[k],
            )
            for k in order
        ]
        return [Bars("class", ["share of pixels"], bars, ["images", "of all"])]
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in tables["class_report"].to_pylist():
        rows.setdefault(row["stage"], []).append(row)
    last = list(rows.values())[-1]
    labelled = max(1, sum(row["gt"] for row in last))
    bars = []
    for k, row in enumerate(last):
        texts = [_score(row["accuracy"]), f"{row['gt'] / labelled:.2%}", f"{share[k]:.2%}", f"{present[k]:,}"]
        if len(rows) > 1:
            texts.insert(0, _gain([stage[k]["iou"] for stage in rows.values()]))
        bars.append(Bar(row["class"], [stage[k]["iou"] for stage in rows.values()], texts, palette[k]))
    headings = ["accuracy", "share in labels", "share in masks", "images"]
    headings = ["gain", *headings] if len(rows) > 1 else headings
    series = [f"IoU {STAGES[stage]}" if len(rows) > 1 else "IoU" for stage in rows]
    return [Bars("class", series, bars, headings)]


def _gain(values: list[float | None]) -> str:
    first, *_, last = values
    return "–" if first is None or last is None else f"{last - first:+.4f}"


def _confusion(classes: Classes, tables: Mapping[str, pa.Table]) -> list[Block]:
    rows = tables["confusion"].to_pylist()
    stage = rows[-1]["stage"]
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for row in rows:
        if row["stage"] == stage:
            matrix[row["gt"], row["pred"]] = row["pixels"]
    totals = np.maximum(matrix.sum(axis=1), 1)
    wrong = matrix * ~np.eye(len(classes), dtype=bool)
    worst = [divmod(int(i), len(classes)) for i in np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]]
    listed = Table(
        ["labelled", "predicted", "pixels", "of the label", "of all errors"],
        [
            [
                classes.names[g],
                classes.names[p],
                int(wrong[g, p]),
                f"{wrong[g, p] / totals[g]:.1%}",
                f"{wrong[g, p] / wrong.sum():.1%}",
            ]
            for g, p in worst
            if wrong[g, p]
        ],
    )
    blocks: list[Block] = []
    kept = list(range(len(classes)))
    if len(kept) > MOST_CONFUSED:
        pixels = matrix.sum(axis=0) + matrix.sum(axis=1)
        kept = sorted(np.argsort(-pixels, kind="stable")[:MOST_CONFUSED].tolist())
        blocks.append(Text(f"The {MOST_CONFUSED} classes with the most pixels, of {len(classes):,}."))
    names = [classes.names[k] for k in kept]
    counted = matrix.sum(axis=1)
    shares = [(matrix[k, kept] / totals[k]).tolist() if counted[k] else None for k in kept]
    shown = Matrix("labelled class", "predicted class", names, shares)
    blocks.append(Beside([shown, listed]) if listed.rows else shown)
    return blocks
