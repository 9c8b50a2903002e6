"""The images of a bulk run's input, in a fixed order, each with a stable id."""

import itertools
import posixpath
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from pipeline import storage
from pipeline.bulk.archives import archive
from pipeline.bulk.table_input import ID_COLUMN, NO_ROW, image_column, row_uri, uri_column
from pipeline.data import datasets
from pipeline.errors import UserError


class InputImage(NamedTuple):
    """An image of the input.

    Attributes:
        image_id: Its key below the input's root; unique in a run.
        uri: The file, or the Parquet file or archive that holds its bytes.
        row: Its row in that Parquet file, or its offset in that archive; `NO_ROW` for a file of its own.
        bytes: Encoded size (in the archive); 0 where unknown.
        etag: Entity tag; empty where the store has none.
        mtime: Time of the last change; empty where the store has none.
    """

    image_id: str
    uri: str
    row: int
    bytes: int
    etag: str
    mtime: str


def list_input(url: str) -> list[InputImage]:
    """List the images of a folder, a glob, a `.txt` list, archives or a Parquet table, ordered by id.

    Raises:
        UserError: There are none, they cannot be listed, or an id occurs twice.
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
    pattern = archive.as_glob(url)
    fs, path = storage.filesystem(pattern)
    root = glob_root(path) if glob_root(path) != path and not fs.exists(path) else path
    with storage.friendly_errors(url, "cannot list"):
        files = archive.only_numbered(storage.list_files(pattern), url)
    if archives := archive.find_archives(files, root):
        found = _from_archives([(datasets.relative(f.path, root), storage.url_of(fs, f.path), f) for f in archives])
        if not found:
            raise UserError(f"no images in {storage.redact(url)} (found {len(archives)} archives)")
        return found
    return [
        InputImage(datasets.relative(f.path, root), storage.url_of(fs, f.path), NO_ROW, f.size, f.etag, f.mtime)
        for f in datasets.only_images(files, url, root=root)
    ]


def _from_archives(archives: list[tuple[str, str, storage.StoredFile]]) -> list[InputImage]:
    """List the images in archives, each given by its key, URL and entry of the listing."""
    listed = archive.list_archives([(key, place, file.size) for key, place, file in archives])
    return [
        InputImage(image.image_id, place, image.offset, image.size, file.etag, file.mtime)
        for (_, place, file), images in zip(archives, listed, strict=True)
        for image in images
    ]


def glob_root(path: str) -> str:
    """Return the folder above the first wildcard: `a/b/2026-*/x.jpg` -> `a/b`."""
    parts = path.split("/")
    for i, part in enumerate(parts):
        if any(c in part for c in "*?["):
            return "/".join(parts[:i])
    return path


def _from_list(url: str) -> list[InputImage]:
    """Read URLs, or keys relative to the list's folder, one a line; the store is not asked for their sizes."""
    lines = [line.strip() for line in storage.read_text(url, noun="list").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"the list {storage.redact(url)} is empty")
    folder = posixpath.dirname(url)
    uris = [line if _is_absolute(line) else storage.join(folder, line) for line in lines]
    keys = [storage.redact(line) for line in lines]
    archives = [
        (k, uri, storage.StoredFile(uri, 0, "", ""))
        for k, uri in zip(keys, uris, strict=True)
        if archive.is_archive(uri)
    ]
    files = [(k, uri) for k, uri in zip(keys, uris, strict=True) if not archive.is_archive(uri)]
    return [InputImage(k, uri, NO_ROW, 0, "", "") for k, uri in files] + _from_archives(archives)


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
            uris = uri_column(parquet.schema_arrow)
            has_id = ID_COLUMN in parquet.schema_arrow.names
            if uris is None:
                image_column(parquet.schema_arrow, place)
            wanted = [c for c in (uris, ID_COLUMN if has_id else None) if c]
            table = parquet.read(columns=wanted)
            rows = table.to_pylist() if wanted else [{}] * parquet.metadata.num_rows
        key = datasets.relative(file.path, root)
        size = file.size // max(1, len(rows))
        for i, row in enumerate(rows):
            if uris is None:
                image_id = row.get(ID_COLUMN) or row_uri(key, i)
                found.append(InputImage(image_id, place, i, size, file.etag, file.mtime))
            else:
                found.append(_linked_image(row, i, uris, place))
    return found


def _linked_image(row: dict[str, Any], i: int, uris: str, place: str) -> InputImage:
    """Return the image that row `i` of a table of URLs names."""
    uri = row[uris]
    if not uri:
        raise UserError(f"{storage.redact(place)}: row {i} (counted from 0) has no {uris}")
    return InputImage(row.get(ID_COLUMN) or storage.redact(uri), uri, NO_ROW, 0, "", "")
