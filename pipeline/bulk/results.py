"""Reading a run's rows: whole columns for numbers, single row groups for masks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.threads import in_order

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from pyarrow.dataset import Dataset


class RowGroup(NamedTuple):
    """A row group of a file of a run, and its number of rows."""

    file: str
    group: int
    rows: int


def open_images(run: str, files: Sequence[str]) -> "Dataset":
    """Open the rows of a run as a pyarrow data set, in the order of the plan.

    Args:
        run: Folder of the run.
        files: Paths below that folder, in order.
    """
    from pyarrow.dataset import dataset

    fs, path = storage.filesystem(run)
    return dataset([f"{path}/{name}" for name in files], filesystem=exact_reads(fs), format="parquet")


def exact_reads(fs: "AbstractFileSystem") -> Any:
    """Return a file system for pyarrow data sets that reads the ranges of the columns that are asked for.

    fsspec's files read megabytes ahead: on S3, one number of each image would cost more than all masks.
    """
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    class ExactReads(FSSpecHandler):
        def open_input_file(self, path: str) -> pa.PythonFile:
            return pa.PythonFile(self.fs.open(path, mode="rb", cache_type="none"), mode="r")

    return fs if storage.is_local_filesystem(fs) else PyFileSystem(ExactReads(fs))


def read_file(run: str, name: str, columns: list[str] | None = None) -> pa.Table:
    """Read a file of a run, or some of its columns."""
    fs, path = storage.filesystem(storage.join(run, name))
    with fs.open(path, "rb") as file:
        return pq.ParquetFile(file).read(columns=columns)


def read_group(run: str, group: RowGroup, columns: list[str]) -> list[dict[str, Any]]:
    """Read the rows of a row group."""
    fs, path = storage.filesystem(storage.join(run, group.file))
    with fs.open(path, "rb") as file:
        return pq.ParquetFile(file).read_row_group(group.group, columns=columns).to_pylist()


def footers(run: str, files: Iterable[str]) -> Iterator[pq.FileMetaData]:
    """Yield the metadata of some files of a run, in order; few of them are in memory at a time."""

    def read(name: str) -> pq.FileMetaData:
        fs, path = storage.filesystem(storage.join(run, name))
        with fs.open(path, "rb") as file:
            return pq.ParquetFile(file).metadata

    return in_order(read, files)


def row_groups(run: str, files: Sequence[str]) -> list[RowGroup]:
    """List the row groups of a run, in the order of the plan."""
    return [
        RowGroup(name, group, footer.row_group(group).num_rows)
        for name, footer in zip(files, footers(run, files), strict=True)
        for group in range(footer.num_row_groups)
    ]


def take(run: str, files: Sequence[str], positions: Sequence[int], columns: list[str]) -> list[dict[str, Any]]:
    """Read rows by position, and only the row groups that hold them.

    Args:
        run: Folder of the run.
        files: Paths below that folder, in order.
        positions: Positions in the plan, ascending.
        columns: Columns to read.
    """
    found: list[dict[str, Any]] = []
    first = 0
    for group in row_groups(run, files):
        inside = [position - first for position in positions if first <= position < first + group.rows]
        if inside:
            rows = read_group(run, group, columns)
            found += [rows[i] for i in inside]
        first += group.rows
    return found


def first_of_each(groups: Mapping[str, Sequence[int]], count: int) -> set[int]:
    """Return up to `count` positions: the first one of each group, then the second ones, and so on."""
    ranked = sorted(
        (rank, place, position) for place, group in enumerate(groups.values()) for rank, position in enumerate(group)
    )
    return {position for _, _, position in ranked[:count]}
