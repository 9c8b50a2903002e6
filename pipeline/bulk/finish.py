"""The end of a run: check the rows, compact the files, derive the report, write the manifest last.

Shards are written to a folder that no reader looks at, and their rows appear in `images` here. So a worker that
outlives its driver, and writes a shard once more, adds nothing to a finished run.
"""

import json
import posixpath
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import parquet, storage
from pipeline.bulk.attempts import MARKS
from pipeline.bulk.catalogue import MANIFEST
from pipeline.bulk.kind import RunKind
from pipeline.bulk.page import bulk_page
from pipeline.bulk.plan import read_plan
from pipeline.bulk.results import footers, open_images, read_file
from pipeline.bulk.schema import compression, metadata_of
from pipeline.bulk.shards import IMAGES, PARTS_FOLDER, part_name, parts
from pipeline.bulk.table_stream import TableStream
from pipeline.bulk.throughput import store_throughput
from pipeline.bulk.write import ROW_GROUP, write_part
from pipeline.threads import in_order

TARGET_BYTES = 256 * 2**20  # of pictures in a file: the size that query engines like
PAGE = "report.html"
SHEET = "sheet.png"


def finish(run: str, *, run_id: str, schema: pa.Schema, kind: RunKind, still_ours: Callable[[], None]) -> None:
    """Finish a run whose shards are all written. If it is killed half-way, it can be done again.

    Args:
        run: Folder of the run.
        run_id: Name of the run.
        schema: Schema of its table `images`.
        kind: Kind of the run.
        still_ours: Raises if another driver works on the run by now; called before the manifest is written.
    """
    from pipeline.report.render import render  # Jinja2

    if not parts(run):  # a night without news: readers still find the columns
        write_part(run, part_name(0), schema.empty_table())
    shards = parts(run)
    written = check_rows(run, list(shards))
    files = check_rows(run, _compact(run, shards, schema))
    images = open_images(run, list(files))
    store_throughput(run, shards, written)
    report = kind.report(run, list(files), images)
    store_tables(run, report.tables)
    if report.sheet:
        storage.write_bytes(storage.join(run, SHEET), report.sheet)
    manifest = {
        "run_id": run_id,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "images": images.count_rows(),
        "errors": images.count_rows(filter=pc.field("status") == "error"),
        "files": [{"path": name, "rows": rows} for name, rows in files.items()],
        "tables": [f"{name}/{name}.parquet" for name in report.tables],
        "report": PAGE,
        "sheet": SHEET if report.sheet else None,
        **{k: v for k, v in metadata_of(schema).items() if k != "run_id"},
    }
    storage.write_bytes(storage.join(run, PAGE), render(bulk_page(run, manifest, images, report)))
    still_ours()
    storage.write_bytes(storage.join(run, MANIFEST), json.dumps(manifest, indent=2).encode())
    _remove_all(run, PARTS_FOLDER)
    _remove_all(run, MARKS)


def store_tables(folder: str, tables: Mapping[str, pa.Table]) -> None:
    """Write each table as `<folder>/<name>/<name>.parquet`."""
    for name, table in tables.items():
        parquet.write_table(storage.join(folder, name, f"{name}.parquet"), table)


def check_rows(run: str, files: list[str]) -> dict[str, int]:
    """Compare the ids in some files with the plan, file after file.

    Args:
        run: Folder of the run.
        files: Paths below that folder, in the order of shards.

    Returns:
        The number of rows of each file.

    Raises:
        RuntimeError: A shard is missing or doubled, or a file holds other rows than the plan.
    """
    planned = TableStream(read_plan(run, ["image_id"]))
    rows: dict[str, int] = {}
    written = in_order(lambda name: read_file(run, name, ["image_id"])["image_id"], files)
    for name, ids in zip(files, written, strict=True):
        chunks = [chunk for part in planned.take(len(ids)) for chunk in part["image_id"].chunks]
        if not ids.equals(pa.chunked_array(chunks, pa.string())):
            raise RuntimeError(f"{storage.redact(run)}: {name} does not hold the rows that the plan has for it")
        rows[name] = len(ids)
    if planned.take(1):
        raise RuntimeError(f"{storage.redact(run)}: the files hold {sum(rows.values())} rows, and the plan has more")
    return rows


def _compact(run: str, shards: dict[str, int], schema: pa.Schema) -> list[str]:
    """Merge neighbouring shards into files of up to `TARGET_BYTES` of pictures, in parallel, and return these files."""
    groups = {
        f"{IMAGES}/{part_name(shards[group[0]], shards[group[-1]])}": group for group in _groups(run, list(shards))
    }
    there = {f"{IMAGES}/{posixpath.basename(f.path)}" for f in storage.list_files(storage.join(run, IMAGES))}
    for name in there - set(groups):
        storage.remove(storage.join(run, name))
    calls = [(run, group, name, schema) for name, group in groups.items() if name not in there]
    if len(calls) == 1:  # merged sooner than a task would start
        _merge(*calls[0])
    elif calls:
        from pipeline import cluster

        cluster.connect()
        list(cluster.map_tasks(_merge, calls, unit="files", title="merging"))
    return list(groups)


def _groups(run: str, files: list[str]) -> Iterator[list[str]]:
    """Cut files into groups by the bytes of their pictures, which depend on the rows alone, unlike timings."""
    sizes = map(_picture_bytes, footers(run, files))
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


def _merge(run: str, files: list[str], target: str, schema: pa.Schema) -> None:
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
        storage.upload(local, storage.join(run, target))


def _remove_all(run: str, folder: str) -> None:
    fs, _ = storage.filesystem(run)
    for _ in in_order(fs.rm_file, [file.path for file in storage.list_files(storage.join(run, folder))]):
        pass
