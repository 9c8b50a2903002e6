"""The images of a bulk run's input, in a fixed order, each with a stable id."""

import itertools
import posixpath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.data import datasets
from pipeline.errors import UserError

ID_COLUMN = "image_id"
URI_COLUMNS = ("uri", "url", "path")
BYTES_COLUMNS = ("image", "bytes")
NO_ROW = -1


class InputImage(NamedTuple):
    """An image to segment.

    Attributes:
        image_id: its key below the input root; unique in a run.
        uri: the file, or the Parquet file that holds its bytes.
        row: its row in that Parquet file; `NO_ROW` for a file of its own.
        bytes: encoded size, 0 where unknown.
        etag, mtime: as the store tells; "" where it does not.
    """

    image_id: str
    uri: str
    row: int
    bytes: int
    etag: str
    mtime: str


def list_input(url: str) -> list[InputImage]:
    """The images of a folder, a glob, a `.txt` list or a Parquet table, ordered and unique by id.

    Raises:
        UserError: nothing there, unreadable, or an id twice.
    """
    if url.endswith((".txt", ".lst")):
        found = _from_list(url)
    elif _is_parquet(url):
        found = _from_tables(url)
    else:
        found = _from_files(url)
    found.sort()
    for before, after in itertools.pairwise(found):
        if before.image_id == after.image_id:
            raise UserError(f"{storage.redact(url)}: the image id '{after.image_id}' occurs twice")
    return found


def _from_files(url: str) -> list[InputImage]:
    fs, path = storage.filesystem(url)
    root = glob_root(path) if glob_root(path) != path and not fs.exists(path) else path
    return [
        InputImage(datasets.relative(f.path, root), storage.url_of(fs, f.path), NO_ROW, f.size, f.etag, f.mtime)
        for f in datasets.list_images(url, root=root)
    ]


def glob_root(path: str) -> str:
    """The folder above the first wildcard: `a/b/2026-*/x.jpg` -> `a/b`."""
    parts = path.split("/")
    for i, part in enumerate(parts):
        if any(c in part for c in "*?["):
            return "/".join(parts[:i])
    return path


def _from_list(url: str) -> list[InputImage]:
    """URLs, or keys relative to the list's folder; one a line. Sizes are unknown, as nothing is asked of the store."""
    lines = [line.strip() for line in storage.read_text(url, what="list").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"the list {storage.redact(url)} is empty")
    folder = posixpath.dirname(url)
    return [
        InputImage(
            storage.redact(line),
            line if _is_absolute(line) else storage.join(folder, line),
            NO_ROW,
            0,
            "",
            "",
        )
        for line in lines
    ]


def _is_absolute(line: str) -> bool:
    return "://" in line or line.startswith("/")


def _is_parquet(url: str) -> bool:
    if url.endswith((".parquet", ".pq")):
        return True
    if posixpath.splitext(url)[1]:
        return False
    with storage.friendly_errors(url, "cannot list"):
        files = storage.list_files(url)
    return bool(files) and all(f.path.endswith(".parquet") for f in files if "/_" not in f.path)


def _from_tables(url: str) -> list[InputImage]:
    with storage.friendly_errors(url, "cannot list"):
        files = [f for f in storage.list_files(url) if f.path.endswith((".parquet", ".pq")) and "/_" not in f.path]
    if not files:
        raise UserError(f"{storage.redact(url)}: no Parquet file there")
    fs, root = storage.filesystem(url)
    found: list[InputImage] = []
    for file in files:
        place = storage.url_of(fs, file.path)
        with storage.friendly_errors(place, "cannot read the table"), fs.open(file.path, "rb") as handle:
            parquet = pq.ParquetFile(handle)
            uri_column, id_column = uri_column_of(parquet.schema_arrow), ID_COLUMN
            has_id = id_column in parquet.schema_arrow.names
            if uri_column is None:
                image_column_of(parquet.schema_arrow, place)
            wanted = [c for c in (uri_column, id_column if has_id else None) if c]
            table = parquet.read(columns=wanted)
            rows = table.to_pylist() if wanted else [{}] * parquet.metadata.num_rows
        key = datasets.relative(file.path, root)
        size = file.size // max(1, len(rows))
        for i, row in enumerate(rows):
            found.append(_table_image(row, i, uri_column, f"{key}#row={i}", place, size, file))
    return found


def _table_image(
    row: dict[str, Any],
    i: int,
    uri_column: str | None,
    key: str,
    place: str,
    size: int,
    file: storage.StoredFile,
) -> InputImage:
    if uri_column is None:
        return InputImage(row.get(ID_COLUMN) or key, place, i, size, file.etag, file.mtime)
    uri = row[uri_column]
    if not uri:
        raise UserError(f"{storage.redact(place)}: row {i} has no {uri_column}")
    return InputImage(row.get(ID_COLUMN) or storage.redact(uri), uri, NO_ROW, 0, "", "")


def uri_column_of(schema: pa.Schema) -> str | None:
    """The column of URLs, unless the table holds the images themselves."""
    if any(name in schema.names for name in BYTES_COLUMNS):
        return None
    return next((name for name in URI_COLUMNS if name in schema.names), None)


def image_column_of(schema: pa.Schema, place: str) -> str:
    """The column of encoded images: binary, or a struct with a field `bytes`.

    Raises:
        UserError: there is none.
    """
    for name in BYTES_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            is_struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
            if is_struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
    raise UserError(
        f"{storage.redact(place)}: no column 'uri' (text) or 'image' (bytes); it has {', '.join(schema.names)}"
    )


def read_rows(url: str, rows: list[int]) -> dict[int, bytes | None]:
    """The encoded images in some rows of a Parquet table, reading only their row groups."""
    fs, path = storage.filesystem(url)
    wanted = set(rows)
    found: dict[int, bytes | None] = {}
    with fs.open(path, "rb") as handle:
        parquet = pq.ParquetFile(handle)
        column = image_column_of(parquet.schema_arrow, url)
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
