"""Streams of tables: any number of rows, of which a few are in memory at a time."""

import bisect
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

RUN_ROWS = 250_000  # sorted in memory at a time
BATCH_ROWS = 4096  # read from each run at a time


class TableStream:
    """Rows of tables, taken by number or up to a key.

    Args:
        tables: Tables with the same columns; sorted by the key if rows are taken up to it.
        key: Text column that `last` and `until` compare, as Python compares texts.
    """

    def __init__(self, tables: Iterable[pa.Table], *, key: str = ""):
        self._tables = iter(tables)
        self._key = key
        self._head: pa.Table | None = None
        self._advance()

    def _advance(self) -> None:
        """Go to the next table that has rows."""
        self._head = next((table for table in self._tables if table.num_rows), None)

    @property
    def last(self) -> str | None:
        """The last key of the table that is read next; None at the end."""
        return None if self._head is None else self._head[self._key][-1].as_py()

    def take(self, rows: int) -> list[pa.Table]:
        """Return tables with the next rows; fewer rows at the end."""
        taken = []
        while rows and self._head is not None:
            part = self._cut(rows)
            rows -= part.num_rows
            taken.append(part)
        return taken

    def until(self, key: str) -> list[pa.Table]:
        """Return tables with all rows whose key is not greater than the given one."""
        taken = []
        while self._head is not None:
            keys = self._head[self._key]
            if keys[0].as_py() > key:
                break
            rows = bisect.bisect_right(range(len(keys)), key, key=lambda i, keys=keys: keys[i].as_py())  # type: ignore[misc]
            is_whole = rows == len(keys)
            taken.append(self._cut(rows))
            if not is_whole:
                break
        return taken

    def _cut(self, rows: int) -> pa.Table:
        """Take rows from the current table."""
        assert self._head is not None
        part = self._head.slice(0, rows)
        if rows < self._head.num_rows:
            self._head = self._head.slice(rows)
        else:
            self._advance()
        return part


def split(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the rows of some tables in tables of so many rows; the last may have fewer."""
    stream = TableStream(tables)
    while parts := stream.take(rows):
        yield pa.concat_tables(parts)


def sort_rows(tables: Iterable[pa.Table], key: str) -> Iterator[pa.Table]:
    """Sort rows by a text column, as Python sorts texts.

    Sorted runs of `RUN_ROWS` rows are stored in a temporary folder and merged. Rows that come in order make one run.

    Args:
        tables: Tables with the same columns.
        key: The text column.

    Yields:
        Tables of some thousand rows.
    """
    with tempfile.TemporaryDirectory(prefix="segpipe-sort-") as folder:
        runs = _store_runs(tables, key, Path(folder))
        yield from _merge([TableStream(_read_run(run), key=key) for run in runs], key)


def _store_runs(tables: Iterable[pa.Table], key: str, folder: Path) -> list[Path]:
    """Write sorted runs, and return their files."""
    runs: list[Path] = []
    writer: pa.ipc.RecordBatchStreamWriter | None = None
    last = ""
    for table in split(tables, RUN_ROWS):
        table = _sorted(table.combine_chunks(), key)
        keys = table[key]
        if writer is None or keys[0].as_py() < last:
            if writer is not None:
                writer.close()
            runs.append(folder / f"{len(runs)}.arrow")
            writer = pa.ipc.new_stream(runs[-1], table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        writer.write_table(table, max_chunksize=BATCH_ROWS)
        last = keys[-1].as_py()
    if writer is not None:
        writer.close()
    return runs


def _sorted(table: pa.Table, key: str) -> pa.Table:
    keys = table[key]
    in_order = pc.all(pc.less_equal(keys[:-1], keys[1:])).as_py()
    return table if in_order else table.sort_by(key)


def _read_run(run: Path) -> Iterator[pa.Table]:
    with pa.OSFile(str(run)) as file, pa.ipc.open_stream(file) as batches:
        for batch in batches:
            yield pa.Table.from_batches([batch])


def _merge(runs: list[TableStream], key: str) -> Iterator[pa.Table]:
    """Merge sorted runs: what all runs have up to the smallest last key of a batch can be sorted by itself."""
    while lasts := [run.last for run in runs if run.last is not None]:
        parts = [part for run in runs for part in run.until(min(lasts))]
        yield parts[0] if len(parts) == 1 else _sorted(pa.concat_tables(parts).combine_chunks(), key)
