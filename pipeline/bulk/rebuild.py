"""The page of a finished run, built again from its stored tables."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline import storage
from pipeline.bulk.finish import PAGE
from pipeline.bulk.kind import RunReport
from pipeline.bulk.page import bulk_page
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.results import open_images, read_file
from pipeline.data.classes import Classes
from pipeline.report.blocks import Section, Table
from pipeline.report.render import render

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

# Modules with `run_page(run, files, images, classes, tables)` by job.
PAGES = {
    "segment": "pipeline.bulk.segmentation.page",
    "localize": "pipeline.bulk.localization.page",
    "detect": "pipeline.bulk.detection.page",
}


def write_page(run: str, output: str | None = None) -> str:
    """Build the page of a finished run again, and return its URL.

    Args:
        run: Folder of the run.
        output: File of the page; by default that of the run.

    Raises:
        UserError: The run is not there or not finished, or the page cannot be written.
    """
    manifest = read_manifest(run)
    page = render(bulk_page(run, manifest, open_run(run, manifest), report_of(run, manifest)))
    url = output or storage.join(run, PAGE)
    with storage.friendly_errors(url, "cannot write the page"):
        storage.write_bytes(url, page)
    return url


def open_run(run: str, manifest: dict[str, Any]) -> "Dataset":
    """Open the rows of a run."""
    return open_images(run, [file["path"] for file in manifest["files"]])


def tables_of(run: str, manifest: dict[str, Any]) -> dict[str, pa.Table]:
    """Read the report tables of a run by name."""
    return {path.partition("/")[0]: read_file(run, path) for path in manifest["tables"]}


def report_of(run: str, manifest: dict[str, Any]) -> RunReport:
    """Return what the kind of a run reports; for a job without a page of its own, its tables."""
    tables = tables_of(run, manifest)
    if manifest["job"] not in PAGES:
        return RunReport(tables, sections=table_sections(tables))
    files: Sequence[str] = [file["path"] for file in manifest["files"]]
    run_page = import_module(PAGES[manifest["job"]]).run_page
    report: RunReport = run_page(run, files, open_run(run, manifest), Classes(**manifest["classes"]), tables)
    return report


def table_sections(tables: Mapping[str, pa.Table]) -> list[Section]:
    """Return a section for each table."""
    return [Section(name.replace("_", " ").capitalize(), [Table.of(table)]) for name, table in tables.items()]
