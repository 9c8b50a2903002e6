"""The end of a run: check the rows, compact the files, derive the report, write the manifest last."""

import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import parquet, storage
from pipeline.bulk.kind import RunKind
from pipeline.bulk.plan import MANIFEST
from pipeline.bulk.quarantine import MARKS
from pipeline.bulk.results import THREADS, footers, open_images, read_file
from pipeline.bulk.schema import compression, metadata_of
from pipeline.bulk.shards import IMAGES, part_name, parts
from pipeline.bulk.write import ROW_GROUP, write_part
from pipeline.report.page import draw_page

TARGET_BYTES = 256 * 2**20  # of pictures in a file: the size that query engines like
ERRORS_SHOWN = 50
PAGE = "report.html"
SHEET = "sheet.png"


def finish(run: str, *, run_id: str, plan: pa.Table, schema: pa.Schema, kind: RunKind) -> None:
    """Finish a run whose shards are all written. If it is killed half-way, it can be done again.

    Args:
        run: Folder of the run.
        run_id: Name of the run.
        plan: Its plan.
        schema: Schema of its table `images`.
        kind: Kind of the run.
    """
    _remove_compacted(run)
    if plan.num_rows == 0:  # a night without news: readers still find the columns
        write_part(run, part_name(0), schema.empty_table())
    files = check_rows(run, plan)
    if len(files) > 1:
        _compact(run, files, schema)
        files = check_rows(run, plan)
    images = open_images(run, list(files))
    report = kind.report(run, list(files), images)
    store_tables(run, report.tables)
    if report.sheet:
        storage.write_bytes(storage.join(run, SHEET), report.sheet)
    is_error = pc.field("status") == "error"
    counts = {"images": images.count_rows(), "errors": images.count_rows(filter=is_error)}
    columns = ["image_id", "error_stage", "error_class", "error_message"]
    page = draw_page(
        run_id=run_id,
        facts=_facts(counts, kind),
        tables=report.page_tables,
        errors=images.scanner(columns=columns, filter=is_error).head(ERRORS_SHOWN).to_pylist(),
        sheet=report.sheet,
        caption=report.caption,
    )
    storage.write_bytes(storage.join(run, PAGE), page)
    _remove_marks(run)
    manifest = {
        "run_id": run_id,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **counts,
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
        parquet.write_table(storage.join(folder, name, f"{name}.parquet"), table)


def check_rows(run: str, plan: pa.Table) -> dict[str, int]:
    """Compare the ids in the files with the plan, in order.

    Returns:
        The number of rows of each file, in the order of shards.

    Raises:
        RuntimeError: A shard is missing or doubled, or a file holds other rows than the plan.
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
    """Remove files whose rows a larger file holds too, because a compaction was interrupted before it removed them."""
    found = parts(run)
    for name, shards in found.items():
        if any(set(shards) < set(other) for other in found.values()):
            storage.remove(storage.join(run, name))


def _compact(run: str, files: dict[str, int], schema: pa.Schema) -> None:
    """Merge neighbouring small files up to `TARGET_BYTES` of pictures, in parallel."""
    found = parts(run)
    groups = [group for group in _groups(run, list(files)) if len(group) > 1]
    calls = [(run, group, found[group[0]].start, found[group[-1]].stop - 1, schema) for group in groups]
    if len(calls) == 1:  # merged sooner than a task would start
        _merge(*calls[0])
    elif calls:
        from pipeline import cluster

        cluster.connect()
        list(cluster.map_tasks(_merge, calls, unit="files"))


def _groups(run: str, files: list[str]) -> Iterator[list[str]]:
    """Cut files into groups by the bytes of their pictures, which depend on the rows alone, unlike timings."""
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


def _facts(counts: dict[str, int], kind: RunKind) -> dict[str, Any]:
    card = kind.card
    return {
        "images": f"{counts['images']:,} from {storage.redact(kind.config.images)}",
        "errors": f"{counts['errors']:,}",
        "model": f"{card.architecture}, fingerprint {card.fingerprint[:16]}",
        "trained": card.created,
    }
