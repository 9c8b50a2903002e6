"""Parquet tables as input: a column of URLs, or one of encoded images whose rows are named `TABLE#row=N`."""

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import UserError

NO_ROW = -1  # row of an image that is a file of its own
ID_COLUMN = "image_id"
URI_COLUMNS = ("uri", "url", "path")
BYTES_COLUMNS = ("image", "bytes")
_ROW = "#row="


def row_uri(uri: str, row: int) -> str:
    """Name an image: the file's URI, or with its row where the file is a table."""
    return uri if row == NO_ROW else f"{uri}{_ROW}{row}"


def read_image_bytes(uri: str) -> bytes:
    """Read an encoded image by the name that `row_uri` gave it."""
    file, _, row = uri.rpartition(_ROW)
    if not file:
        return storage.read_bytes(uri)
    return read_table_images(file, [int(row)])[int(row)] or b""


def uri_column(schema: pa.Schema) -> str | None:
    """Return the column of URLs; None for a table that holds the images themselves."""
    if any(name in schema.names for name in BYTES_COLUMNS):
        return None
    return next((name for name in URI_COLUMNS if name in schema.names), None)


def image_column(schema: pa.Schema, url: str) -> str:
    """Return the column of encoded images: binary, or a struct with a field `bytes`.

    Args:
        schema: Schema of the table.
        url: The table, for the message.

    Raises:
        UserError: There is no such column.
    """
    for name in BYTES_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            is_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
            if is_struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
    raise UserError(
        f"{storage.redact(url)}: no column 'uri' (text) or 'image' (bytes); it has {', '.join(schema.names)}"
    )


def read_table_images(url: str, rows: list[int]) -> dict[int, bytes | None]:
    """Read the encoded images in some rows of a table, and only the row groups that hold them."""
    fs, path = storage.filesystem(url)
    wanted = set(rows)
    found: dict[int, bytes | None] = {}
    with fs.open(path, "rb") as handle:
        parquet = pq.ParquetFile(handle)
        column = image_column(parquet.schema_arrow, url)
        first = 0
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            inside = wanted.intersection(range(first, first + count))
            if inside:
                values = parquet.read_row_group(group, columns=[column]).column(0)
                for row in inside:
                    value = values[row - first].as_py()
                    found[row] = value["bytes"] if isinstance(value, dict) else value
            first += count
    return found
