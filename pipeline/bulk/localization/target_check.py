"""How well a target detector tells images with the target from images without, in several views of them."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import parquet, storage
from pipeline.bulk.localization.config import LocalizeConfig, TargetCheckConfig
from pipeline.bulk.localization.run import localize
from pipeline.bulk.localization.tables import NAMES, SCORES
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.results import read_file
from pipeline.card import read_card
from pipeline.errors import UserError
from pipeline.metrics.ranking import roc_auc

REPORT = "detector_report.parquet"
SCHEMA = pa.schema(
    [
        ("view", pa.string()),
        ("positive", pa.int64()),  # images with the target that were scored
        ("negative", pa.int64()),  # images without the target that were scored
        ("errors", pa.int64()),
        ("auc", pa.float64()),
        ("hits", pa.float64()),  # share of the positive images in which the target was found
        ("false_alarms", pa.float64()),  # share of the negative images in which the target was found
        ("max_box_acc", pa.float64()),
        ("max_box_acc_v2", pa.float64()),
        ("centre_max_box_acc", pa.float64()),
        ("centre_max_box_acc_v2", pa.float64()),
    ]
)


def check_target(config: TargetCheckConfig) -> pa.Table:
    """Localize in both sets in each view, and compare.

    Returns:
        One row per view, with `SCHEMA`; it is stored as well.

    Raises:
        UserError: The target is not a class of the model, or a localization run refuses its input.
    """
    names = read_card(config.model).classes.names
    target = config.target or names[0]
    if target not in names or (config.target is None and len(names) > 1):
        raise UserError(f"--target must be one of the model's classes: {', '.join(names)}")
    rows = []
    for view in config.views:
        runs = []
        for side, images in (("positive", config.positive), ("negative", config.negative)):
            options = LocalizeConfig(
                model=config.model,
                images=images,
                output=storage.join(config.output, view, side),
                run_id="all",
                truth=config.truth if side == "positive" else None,
                view=view,
                scaling=config.scaling,
            )
            run = localize(options)
            assert run is not None
            runs.append(run)
        rows.append({"view": view} | _compare(*runs, k=names.index(target), target=target))
    return parquet.write_rows(storage.join(config.output, REPORT), rows, SCHEMA)


def _compare(positive: str, negative: str, *, k: int, target: str) -> dict[str, Any]:
    (present, found, lost), (absent, alarms, more) = (_results(run, k, target) for run in (positive, negative))
    scores = np.concatenate([present, absent])
    row: dict[str, Any] = {
        "positive": len(present),
        "negative": len(absent),
        "errors": lost + more,
        "auc": roc_auc(scores, np.arange(len(scores)) < len(present)),
        "hits": float(found.mean()),
        "false_alarms": float(alarms.mean()),
    }
    if f"{SCORES}/{SCORES}.parquet" in read_manifest(positive)["tables"]:
        values = {(r["boxes"], r["score"].split(" ")[0]): r["value"] for r in _scores(positive)}
        row |= {
            "max_box_acc": values[NAMES["largest"], "MaxBoxAcc"],
            "max_box_acc_v2": values[NAMES["all"], "MaxBoxAccV2"],
            "centre_max_box_acc": values[NAMES["centre"], "MaxBoxAcc"],
            "centre_max_box_acc_v2": values[NAMES["centre"], "MaxBoxAccV2"],
        }
    return row


def _scores(run: str) -> list[dict[str, Any]]:
    return read_file(run, f"{SCORES}/{SCORES}.parquet").to_pylist()


def _results(run: str, k: int, target: str) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """Return the target's probability in each image, whether it was found there, and the number of failed images."""
    columns = ["status", "probabilities.list.element", "classes.list.element.class", "classes.list.element.found"]
    rows = [row for file in read_manifest(run)["files"] for row in read_file(run, file["path"], columns).to_pylist()]
    good = [row for row in rows if row["status"] == "ok"]
    if not good:
        raise UserError(f"{storage.redact(run)}: not one image could be used")
    probabilities = np.array([row["probabilities"][k] for row in good])
    found = [any(c["found"] and c["class"] == target for c in row["classes"]) for row in good]
    return probabilities, np.array(found), len(rows) - len(good)


def format_report(table: pa.Table) -> str:
    """Format the table for a terminal."""
    heads = ["view", "AUC", "hits", "false alarms", "MaxBoxAcc", "V2", "centred box", "its V2", "errors"]
    scores = ["auc", "hits", "false_alarms", "max_box_acc", "max_box_acc_v2"]
    scores += ["centre_max_box_acc", "centre_max_box_acc_v2"]
    lines = [heads]
    for row in table.to_pylist():
        cells = ["–" if row[key] is None else f"{row[key]:.4f}" for key in scores]
        lines.append([row["view"], *cells, str(row["errors"])])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)
