"""Parquet tables as input: a column of URLs, or one of encoded images whose rows are named `TABLE#row=N`.

The names of images in archives are made and read here, too (`ARCHIVE.tar#offset=N&size=M`).
"""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.bulk.archives import archive
from pipeline.data.formats import ImageError
from pipeline.errors import UserError

NO_ROW = -1  # row of an image that is a file of its own
NOT_UTF_8 = -2  # row of a file whose name is not UTF-8; texts of the plan are
ID_COLUMN = "image_id"
URI_COLUMNS = ("uri", "url", "path")
BYTES_COLUMNS = ("image", "bytes")
_ROW = "#row="
LARGEST = 2**31  # bytes of an encoded image; a process holds a few at a time


def row_uri(uri: str, row: int, size: int = 0) -> str:
    """Name an image: the file's URI; in a table, with its row; in an archive, with its offset and size there."""
    if row < 0:
        return uri
    return archive.member_uri(uri, row, size) if archive.is_archive(uri) else f"{uri}{_ROW}{row}"


def read_image_bytes(uri: str) -> bytes:
    """Read an encoded image by the name that `row_uri` gave it.

    Raises:
        ImageFault: The table or archive holds no such image.
    """
    if member := archive.split_member_uri(uri):
        return archive.read_member(*member)
    file, _, row = uri.rpartition(_ROW)
    return read_encoded(file, int(row)) if file else storage.read_bytes(uri)


def read_encoded(uri: str, row: int, size: int = 0) -> bytes:
    """Read an encoded image by its row of the plan.

    Args:
        uri: See `InputImage`.
        row: See `InputImage`.
        size: `InputImage.bytes`, which images in archives need.

    Raises:
        ImageFault: The image is too large or cannot be read by its name, or the table or archive holds no such image.
    """
    check_readable(uri, row, size)
    if row == NO_ROW:
        return storage.read_bytes(uri)
    if archive.is_archive(uri):
        return archive.read_member(uri, row, size)
    found = read_table_images(uri, [row])[row]
    if isinstance(found, ImageError):
        raise found
    return found


def check_readable(uri: str, row: int, size: int) -> None:
    """Refuse an image that is too large, or whose name cannot be told to a store; see `read_encoded`.

    Raises:
        ImageFault: It is.
    """
    if row == NOT_UTF_8:
        raise ImageError("the name of the file is not UTF-8 (the id shows its other bytes as \\xNN); rename it")
    if row == NO_ROW and not size and storage.is_local(uri):  # named by a list
        size = storage.size_of(uri)
    if size > LARGEST and (row == NO_ROW or archive.is_archive(uri)):
        raise ImageError(f"the file has {size:,} bytes; images of more than {LARGEST:,} bytes are not read")


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


def read_table_images(url: str, rows: list[int]) -> dict[int, bytes | ImageError]:
    """Read the encoded images in some rows of a table, and only the row groups that hold them.

    Returns:
        The bytes of each row, or the error of a row that holds none.
    """
    fs, path = storage.filesystem(url)
    wanted = set(rows)
    found: dict[int, bytes | ImageError] = {}
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
                    found[row] = _bytes_of(values[row - first].as_py())
            first += count
    return found


def _bytes_of(value: Any) -> bytes | ImageError:
    """Return the encoded image in a cell: bytes, or a Hugging Face image `{"bytes": …, "path": …}`."""
    encoded = value.get("bytes") if isinstance(value, dict) else value
    if encoded is not None:
        return encoded
    path = value.get("path") if isinstance(value, dict) else None
    if path:
        return ImageError(
            f"the row holds the path '{path}' but no bytes: store the images in the table, or their URLs in a column "
            "'uri' in place of this one"
        )
    return ImageError("the row holds no bytes")
