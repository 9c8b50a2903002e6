"""The score tables of a localization run: classifier, map boxes, and a box at the image's centre as the baseline."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.bulk.localization.scores import METHODS
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.results import read_file
from pipeline.data.classes import Classes
from pipeline.errors import UserError
from pipeline.metrics.localization import COVERED, IOUS, BoxHits, PixelHits, box_hits, thresholds
from pipeline.metrics.ranking import average_precision, none_if_nan, roc_auc

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

NAMES = {"largest": "map, largest region", "all": "map, all regions", "centre": "centred box"}
SCORES = "localization_report"
COVERAGE = "coverage of the true boxes"
CURVE = "localization_curve"
CLASSIFICATION = "classification_report"

SCORES_SCHEMA = pa.schema(
    [
        ("boxes", pa.string()),  # one of NAMES
        ("score", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),  # threshold of the value; null if each IoU has its own
        ("images", pa.int64()),
    ]
)
CURVE_SCHEMA = pa.schema(
    [
        ("boxes", pa.string()),
        ("iou", pa.float64()),
        ("threshold", pa.float64()),
        ("gt_known", pa.float64()),
        ("top1", pa.float64()),
        ("top5", pa.float64()),
        ("images", pa.int64()),
    ]
)
CLASSIFICATION_SCHEMA = pa.schema(
    [
        ("class", pa.string()),
        ("images", pa.int64()),  # images that show the class
        ("accuracy", pa.float64()),  # share of them whose most probable class it is
        ("average_precision", pa.float64()),
        ("auc", pa.float64()),
    ]
)


def run_tables(images: "Dataset", classes: Classes, *, step: float, threshold: float | None) -> dict[str, pa.Table]:
    """Derive the tables by name; those of boxes only if the ground truth has boxes.

    Args:
        images: Rows of a run with ground truth.
        classes: Classes of the model.
        step: Distance between the scored thresholds.
        threshold: Threshold chosen on other images, which is scored as well.
    """
    hits, pixels, coverage = _sum_hits(images, step)
    scores: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    steps = thresholds(step)
    for method, found in hits.items():
        if found.images:
            scores += _scores(method, found, steps, threshold)
            curve += _curve(method, found, steps)
    if coverage:
        about = {"boxes": None, "score": COVERAGE, "threshold": COVERED, "images": len(coverage)}
        scores.append(about | {"value": float(np.mean(coverage))})
    if pixels.foreground.any():
        row = {"boxes": None, "score": "PxAP", "value": pixels.px_ap, "threshold": None, "images": None}
        scores.append(row)
    tables = {CLASSIFICATION: pa.Table.from_pylist(_classification(images, classes), schema=CLASSIFICATION_SCHEMA)}
    if scores:
        tables[SCORES] = pa.Table.from_pylist(scores, schema=SCORES_SCHEMA)
        tables[CURVE] = pa.Table.from_pylist(curve, schema=CURVE_SCHEMA)
    return tables


def _sum_hits(images: "Dataset", step: float) -> tuple[dict[str, BoxHits], PixelHits, list[float]]:
    steps = len(thresholds(step))
    hits = {method: BoxHits.zeros(steps) for method in METHODS}
    pixels = PixelHits.zeros(steps)
    coverage: list[float] = []
    for batch in images.to_batches(columns=["scored"]):
        rows = [scored for row in batch["scored"].to_pylist() for scored in row or []]
        boxed = [row for row in rows if row["iou_largest"] is not None]
        ranks = np.array([row["rank"] for row in boxed], int)
        coverage += [row["coverage"] for row in boxed]
        for method in METHODS:
            best = np.array([row[f"iou_{method}"] for row in boxed]).reshape(-1, steps)
            hits[method] += box_hits(best, ranks)
        for row in rows:
            if row["foreground_px"] is not None:
                pixels += PixelHits(np.array(row["foreground_px"]), np.array(row["background_px"]))
    return hits, pixels, coverage


def _scores(method: str, hits: BoxHits, steps: NDArray, threshold: float | None) -> list[dict[str, Any]]:
    half = IOUS.index(0.5)
    best = hits.best(half)

    def row(score: str, value: float, at: float | None) -> dict[str, Any]:
        return {"boxes": NAMES[method], "score": score, "value": value, "threshold": at, "images": hits.images}

    rows = [
        row("MaxBoxAcc (GT-known, IoU 0.5)", hits.max_box_acc, float(steps[best])),
        row("MaxBoxAccV2", hits.max_box_acc_v2, None),
        row("top-1 localization", float(hits.accuracy("top1")[best, half]), float(steps[best])),
        row("top-5 localization", float(hits.accuracy("top5")[best, half]), float(steps[best])),
    ]
    if threshold is not None:
        nearest = int(np.abs(steps - threshold).argmin())
        value = float(hits.accuracy()[nearest, half])
        rows.append(row("GT-known, threshold of the other run", value, float(steps[nearest])))
    return rows


def _curve(method: str, hits: BoxHits, steps: NDArray) -> list[dict[str, Any]]:
    shares = {"gt_known": hits.accuracy(), "top1": hits.accuracy("top1"), "top5": hits.accuracy("top5")}
    return [
        {"boxes": NAMES[method], "iou": iou, "threshold": float(at), "images": hits.images}
        | {name: float(share[t, i]) for name, share in shares.items()}
        for i, iou in enumerate(IOUS)
        for t, at in enumerate(steps)
    ]


def _classification(images: "Dataset", classes: Classes) -> list[dict[str, Any]]:
    table = images.to_table(columns=["known", "probabilities", "top_class", "status"])
    table = table.filter(pa.compute.equal(table["status"], "ok"))
    probabilities = np.array(table["probabilities"].combine_chunks().flatten()).reshape(-1, len(classes))
    known = [set(names) for names in table["known"].to_pylist()]
    top = np.array(table["top_class"].to_pylist())
    rows = []
    for k, name in enumerate(classes.names):
        present = np.array([name in names for names in known], bool)
        rows.append(
            {
                "class": name,
                "images": int(present.sum()),
                "accuracy": float((top[present] == name).mean()) if present.any() else None,
                "average_precision": none_if_nan(average_precision(probabilities[:, k], present)),
                "auc": none_if_nan(roc_auc(probabilities[:, k], present)),
            }
        )
    return rows


def best_threshold(run: str) -> float:
    """Return the threshold at which the largest boxes of a finished run fit best at IoU 0.5.

    Raises:
        UserError: The run was not scored against boxes.
    """
    name = f"{SCORES}/{SCORES}.parquet"
    if name not in read_manifest(run)["tables"]:
        raise UserError(f"{storage.redact(run)} has no {SCORES}: it had no --truth, or --truth had no boxes")
    rows = read_file(run, name).to_pylist()
    return next(r["threshold"] for r in rows if r["boxes"] == NAMES["largest"] and r["score"].startswith("MaxBoxAcc ("))


def format_scores(tables: dict[str, pa.Table]) -> str:
    """Format the tables for a terminal."""
    lines: list[str] = []
    rows = tables[CLASSIFICATION].to_pylist()
    shown = [row for row in rows if row["images"]]
    if shown:
        width = max(5, *(len(row["class"]) for row in shown))
        lines.append(f"{'class':<{width}}  images  accuracy  average precision     AUC")
        for row in shown:
            cells = f"{row['images']:>6}  {_cell(row['accuracy']):>8}  {_cell(row['average_precision']):>17}"
            lines.append(f"{row['class']:<{width}}  {cells}  {_cell(row['auc']):>6}")
        total = sum(row["images"] for row in shown)
        accuracy = sum(row["accuracy"] * row["images"] for row in shown) / total
        lines.append(f"{'all':<{width}}  {total:>6}  {accuracy:>8.4f}")
    if SCORES in tables:
        lines += ["", f"{'boxes':<20}  {'score':<38}  value   threshold"]
        for row in tables[SCORES].to_pylist():
            at = "" if row["threshold"] is None else f"{row['threshold']:9.3f}"
            lines.append(f"{row['boxes'] or 'map':<20}  {row['score']:<38}  {row['value']:.4f}  {at}".rstrip())
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
