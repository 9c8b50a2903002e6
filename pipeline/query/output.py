"""The forms of a result: an aligned table for people, CSV, a JSON object per row, Parquet."""

import base64
import csv
import io
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.query.config import Format

WIDEST = 60  # characters of a cell of a table


def write_result(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, form: Format, limit: int | None, output: str | None
) -> None:
    """Write a result to a file, on any store, or to standard output.

    Args:
        schema: Its columns.
        batches: Its rows.
        form: Form of the result.
        limit: Largest number of rows; None for all.
        output: The file; None for standard output, which Parquet cannot be written to.

    Raises:
        UserError: The file cannot be written, or the query fails on its way.
    """
    rows = _Limited(batches, limit)
    if output is None:
        if form != "table" and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # programs read it
        _write_text(schema, rows, form, sys.stdout)
        return
    with tempfile.TemporaryDirectory(prefix="segpipe-query-") as folder:
        local = Path(folder) / "result"
        if form == "parquet":
            with pq.ParquetWriter(local, schema, compression="zstd") as writer:
                for batch in rows:
                    writer.write_batch(batch)
        else:
            with local.open("w", encoding="utf-8", newline="") as file:
                _write_text(schema, rows, form, file)
        with storage.friendly_errors(output, "cannot write"):
            storage.upload(local, output)


class _Limited:
    """The first rows of a result; `is_cut` tells afterwards whether there were more."""

    def __init__(self, batches: Iterable[pa.RecordBatch], limit: int | None):
        self._batches, self._limit = batches, limit
        self.is_cut = False

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        left = self._limit
        for batch in self._batches:
            if left is not None and batch.num_rows > left:
                self.is_cut = True
                batch = batch.slice(0, left)
            if left is not None:
                left -= batch.num_rows
            if batch.num_rows:
                yield batch
            if self.is_cut:
                return


def _write_text(schema: pa.Schema, rows: _Limited, form: Format, file: IO[str]) -> None:
    values = (row for batch in rows for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    if form == "table":
        file.write(format_table(schema, list(values)))
        if rows.is_cut:
            file.write("there are more rows; --limit 0 shows all\n")
    elif form == "csv":
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(schema.names)
        for row in values:
            writer.writerow([_csv_cell(value) for value in row])
    else:
        for row in values:
            cells = dict(zip(schema.names, map(_plain, row), strict=True))
            file.write(json.dumps(cells, ensure_ascii=False, allow_nan=False) + "\n")


def format_table(schema: pa.Schema, rows: Sequence[Sequence[Any]]) -> str:
    """Format rows as an aligned table with a line that counts them; numbers are aligned to the right."""
    cells = [[_table_cell(value) for value in row] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cells), 0) for i, name in enumerate(schema.names)]
    is_number = [
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) for kind in schema.types
    ]

    def line(texts: Iterable[str]) -> str:
        aligned = zip(texts, widths, is_number, strict=True)
        return "  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in aligned).rstrip()

    count = f"({len(rows):,} {'row' if len(rows) == 1 else 'rows'})"
    return "\n".join([line(schema.names), line("-" * width for width in widths), *map(line, cells), count]) + "\n"


def _table_cell(value: Any) -> str:
    """Return a value as text in one line, binary values as their size."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    is_nested = isinstance(value, (dict, list))
    text = json.dumps(_plain(value, sizes=True), ensure_ascii=False) if is_nested else str(value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def _csv_cell(value: Any) -> Any:
    plain = _plain(value)
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, (dict, list, bool)) else plain


def _plain(value: Any, *, sizes: bool = False) -> Any:
    """Return a value that JSON has, with binary values in base64 or as their sizes."""
    match value:
        case dict():
            return {str(key): _plain(inner, sizes=sizes) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner, sizes=sizes) for inner in value]
        case bytes():
            return f"{len(value):,} bytes" if sizes else base64.b64encode(value).decode()
        case float() if not math.isfinite(value):
            return None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)
