"""The end of a run: check the rows, compact the files, derive the reports, write the manifest last."""

import io
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import ray

from pipeline import cluster, storage
from pipeline.bulk.kind import Kind
from pipeline.bulk.plan import MANIFEST
from pipeline.bulk.quarantine import MARKS
from pipeline.bulk.results import THREADS, footers, open_images, read_file
from pipeline.bulk.schema import compression, metadata_of
from pipeline.bulk.segmentation.tables import Totals, totals_of
from pipeline.bulk.shards import IMAGES, part_name, parts
from pipeline.bulk.write import ROW_GROUP, write_part
from pipeline.report.page import draw_page

TARGET_BYTES = 256 * 2**20  # of pictures in a file: what query engines like
ERRORS_SHOWN = 50
PAGE = "report.html"
SHEET = "sheet.png"


def finish(run: str, *, run_id: str, plan: pa.Table, schema: pa.Schema, kind: Kind) -> None:
    """Finish a run of which every shard is written. Killed half-way, it can be done again."""
    _remove_compacted(run)
    if plan.num_rows == 0:  # a night without news: readers still find the columns
        write_part(run, part_name(0), schema.empty_table(), schema)
    files = check_rows(run, plan)
    if len(files) > 1:
        _compact(run, files, schema)
        files = check_rows(run, plan)
    images = open_images(run, list(files))
    totals = totals_of(images)
    report = kind.report(run, list(files), images)
    store_tables(run, report.tables)
    if report.sheet:
        storage.write_bytes(storage.join(run, SHEET), report.sheet)
    facts = _facts(totals, kind)
    page = draw_page(
        run_id=run_id,
        facts=facts,
        tables=report.shown,
        errors=_errors(images),
        sheet=report.sheet,
        caption=report.caption,
    )
    storage.write_bytes(storage.join(run, PAGE), page)
    _remove_marks(run)
    manifest = {
        "run_id": run_id,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "images": totals.images,
        "errors": totals.errors,
        "files": [{"path": name, "rows": rows} for name, rows in files.items()],
        "tables": [f"{name}/{name}.parquet" for name in report.tables],
        "report": PAGE,
        "sheet": SHEET if report.sheet else None,
        **{k: v for k, v in metadata_of(schema).items() if k != "run_id"},
    }
    storage.write_bytes(storage.join(run, MANIFEST), json.dumps(manifest, indent=2).encode())


def store_tables(folder: str, tables: dict[str, pa.Table]) -> None:
    """Write each table as `<folder>/<name>/<name>.parquet`."""
    for name, table in tables.items():
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        storage.write_bytes(storage.join(folder, name, f"{name}.parquet"), buffer.getvalue())


def check_rows(run: str, plan: pa.Table) -> dict[str, int]:
    """Compare the ids in the files with the plan, in order.

    Returns:
        Rows of each file, in the order of shards.

    Raises:
        RuntimeError: a shard is missing or doubled, or a file holds other rows than the plan.
    """
    files = dict(sorted(parts(run).items(), key=lambda item: item[1].start))
    with ThreadPoolExecutor(THREADS) as pool:
        ids = list(pool.map(lambda name: read_file(run, name, ["image_id"])["image_id"], files))
    written = pa.chunked_array([chunk for column in ids for chunk in column.chunks], pa.string())
    if not written.combine_chunks().equals(plan["image_id"].combine_chunks()):
        raise RuntimeError(
            f"{storage.redact(run)}: the {len(written)} rows written are not the {plan.num_rows} of the plan"
        )
    return {name: len(column) for name, column in zip(files, ids, strict=True)}


def _remove_compacted(run: str) -> None:
    """Remove files that a larger file holds too: compaction was interrupted between writing and removing."""
    found = parts(run)
    for name, shards in found.items():
        if any(set(shards) < set(other) for other in found.values()):
            storage.remove(storage.join(run, name))


def _compact(run: str, files: dict[str, int], schema: pa.Schema) -> None:
    """Merge neighbouring small files up to `TARGET_BYTES` of pictures, in parallel."""
    found = parts(run)
    groups = [group for group in _groups(run, list(files)) if len(group) > 1]
    spans = [(found[group[0]].start, found[group[-1]].stop - 1) for group in groups]
    if len(groups) == 1:  # done sooner than a task would start
        _merge(run, groups[0], *spans[0], schema)
    elif groups:
        cluster.connect()
        merge = ray.remote(num_cpus=1)(_merge)
        ray.get([merge.remote(run, group, *span, schema) for group, span in zip(groups, spans, strict=True)])


def _groups(run: str, files: list[str]) -> Iterator[list[str]]:
    """Cut by the pictures' bytes, which depend on the rows alone: a file's size depends on its timings too."""
    sizes = [_picture_bytes(footer) for footer in footers(run, files)]
    group: list[str] = []
    total = 0
    for name, size in zip(files, sizes, strict=True):
        if group and total + size > TARGET_BYTES:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    yield group


def _picture_bytes(footer: pq.FileMetaData) -> int:
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    columns = [group.column(j) for group in groups for j in range(group.num_columns)]
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema.endswith(".bytes"))


def _merge(run: str, files: list[str], first: int, last: int, schema: pa.Schema) -> None:
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "merged.parquet"
        with pq.ParquetWriter(local, schema, compression=compression(schema)) as writer:
            waiting: list[pa.Table] = []
            for name in files:
                waiting.append(read_file(run, name))
                if sum(table.num_rows for table in waiting) >= ROW_GROUP:
                    writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP)
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP)
        storage.upload(local, storage.join(run, IMAGES, part_name(first, last)))
    for name in files:
        storage.remove(storage.join(run, name))


def _remove_marks(run: str) -> None:
    fs, _ = storage.filesystem(run)
    for file in storage.list_files(storage.join(run, MARKS)):
        fs.rm_file(file.path)


def _errors(images: pa.dataset.Dataset) -> list[dict[str, Any]]:
    columns = ["image_id", "error_stage", "error_class", "error_message"]
    return images.scanner(columns=columns, filter=pa.dataset.field("status") == "error").head(ERRORS_SHOWN).to_pylist()


def _facts(totals: Totals, kind: Kind) -> dict[str, Any]:
    card = kind.card
    return {
        "images": f"{totals.images:,} from {storage.redact(kind.config.images)}",
        "errors": f"{totals.errors:,}",
        "model": f"{card.architecture}, fingerprint {card.fingerprint[:16]}",
        "trained": card.created,
    }
