"""Parquet tables on any storage: the one place that writes and reads them whole."""

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage


def write_table(url: str, table: pa.Table, *, compression: str | dict[str, str] = "zstd", **options: Any) -> None:
    """Write a table as one Parquet file, atomically.

    Args:
        url: The file.
        table: Its content.
        compression: A codec, or a codec for each column path.
        **options: Further options of `pyarrow.parquet.write_table`.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=compression, **options)
    storage.write_bytes(url, buffer.getvalue())


def write_rows(url: str, rows: Sequence[dict[str, Any]], schema: pa.Schema | None = None) -> pa.Table:
    """Write rows as one Parquet file, atomically, and return them as a table.

    Args:
        url: The file.
        rows: One dict per row.
        schema: Columns of the table; by default inferred from the rows.
    """
    table = pa.Table.from_pylist(list(rows), schema=schema)
    write_table(url, table)
    return table


def read_table(url: str, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns."""
    return pq.ParquetFile(io.BytesIO(storage.read_bytes(url))).read(columns=columns)
