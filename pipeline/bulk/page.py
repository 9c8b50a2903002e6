"""The page of a bulk run of any kind: the frame around what the kind reports, from the run's stored tables alone."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from pipeline.bulk.kind import RunReport
from pipeline.bulk.outcome import Cause, Causes
from pipeline.bulk.throughput import format_time, read_rate
from pipeline.report.blocks import Block, Chart, Facts, Headline, Line, Page, Section, Table, flattened

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

KINDS = {"segment": "Segmentation run", "localize": "Localization run", "detect": "Detection run"}
CAUSES, SAMPLES = 30, 3
STEPS = {
    "t_fetch_ms": "fetch",
    "t_decode_ms": "decode",
    "t_propose_ms": "propose boxes",
    "t_infer_ms": "network",
    "t_select_ms": "select boxes",
    "t_crf_ms": "dense CRF",
}


def bulk_page(run: str, manifest: dict[str, Any], images: "Dataset", report: RunReport) -> Page:
    """Return the page of a finished run.

    Args:
        run: Folder of the run.
        manifest: Its manifest.
        images: Its rows.
        report: What its kind reports.
    """
    total, errors = manifest["images"], manifest["errors"]
    rate = read_rate(run)
    headlines = [
        Headline("images", f"{total:,}", f"{total - errors:,} with a result"),
        *report.headlines,
        Headline("errors", f"{errors:,}", f"{errors / total:.2%} of the images" if errors else ""),
    ]
    if rate is not None:
        headlines.append(
            Headline("images per second", f"{rate.images / rate.seconds:,.1f}", "while shards were written")
        )
    sections = [*report.sections]
    if errors:
        sections.append(Section("Errors", [error_causes(images)], "Images without a result, by cause."))
    sections.append(Section("Time", _time(images, rate)))
    sections.append(Section("Configuration", [Facts(_facts(manifest)), Facts(flattened(manifest["config"]))]))
    kind = KINDS.get(manifest["job"], f"Run of {manifest['job']}")
    return Page(
        manifest["run_id"],
        kind,
        f"{manifest['config']['images']} · {format_time(manifest['finished'])}",
        headlines,
        sections,
    )


def error_causes(images: "Dataset") -> Table:
    """Return the errors by cause, the most frequent first, with the names of some images."""
    causes, names = Causes(), dict[Cause, list[str]]()
    columns = ["image_id", "error_stage", "error_class", "error_message"]
    for batch in images.to_batches(columns=columns, filter=pc.field("status") == "error"):
        for row in batch.to_pylist():
            some = names.setdefault(causes.add_row(row), [])
            if len(some) < SAMPLES:
                some.append(row["image_id"])
    rows = []
    for cause, count in causes.counts.most_common(CAUSES):
        message = causes.examples[cause].removeprefix(f"{names[cause][0]}: ")
        rows.append([cause.stage, cause.error_class, count, message, ", ".join(names[cause])])
    return Table(["stage", "class", "images", "message of the first", "for example"], rows)


def _time(images: "Dataset", rate: Any) -> list[Block]:
    blocks: list[Block] = []
    if rate is not None:
        unit, name = (60.0, "minutes") if rate.seconds > 300 else (1.0, "seconds")
        points = [(seconds / unit, value) for seconds, value in rate.points]
        chart = Chart(
            "Images per second", [Line("all", points)], f"{name} since the first shard", x_max=rate.seconds / unit
        )
        blocks.append(chart)
    rows = []
    for column, name in STEPS.items():
        if column in images.schema.names:
            values = images.to_table(columns=[column])[column].drop_null().to_numpy()
            if len(values):
                low, high = np.percentile(values, [50, 95]).tolist()
                rows.append([name, *(f"{x:,.1f}" for x in (values.mean(), low, high, values.max()))])
    if rows:
        blocks.append(Table(["step, ms for an image", "mean", "median", "95%", "longest"], rows))
    return blocks


def _facts(manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "fingerprint of the model": manifest["model_fingerprint"][:16],
        "classes": len(manifest["classes"]["names"]),
        "segpipe": manifest["code_version"],
        "files": len(manifest["files"]),
    }
