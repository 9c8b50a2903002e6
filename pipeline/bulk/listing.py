"""The images of a bulk run's input, in a fixed order, each with a stable id.

A source yields the images of one form of input as it finds them. They are sorted in tables of columns, of which most
lie on local disk, because Python objects for millions of images would fill the memory.
"""

import io
import itertools
import posixpath
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.bulk.archives import archive
from pipeline.bulk.named_places import STRICT, Rules, check_place, secret_of
from pipeline.bulk.table_input import ID_COLUMN, NO_ROW, NOT_UTF_8, image_column, row_uri, uri_column
from pipeline.bulk.table_stream import sort_rows
from pipeline.data import datasets
from pipeline.data.image_ids import listed_id, named_id
from pipeline.errors import UserError
from pipeline.progress import Progress
from pipeline.secrets import redact_signed
from pipeline.walk import glob_root, iter_files

PAGE = 10_000  # images that are Python objects at a time
NOTHING_FOUND = "nothing; does the bucket or folder exist?"
READ_AHEAD = 8 * 2**20  # bytes of a list that are fetched at a time


class InputImage(NamedTuple):
    """An image of the input.

    Attributes:
        image_id: Its key below the input's root; unique in a run.
        uri: The file, or the Parquet file or archive that holds its bytes.
        row: Its row in that Parquet file, or its offset in that archive; `NO_ROW` for a file of its own, and
            `NOT_UTF_8` for one whose name no plan can hold.
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


IMAGE_FIELDS = [
    pa.field("image_id", pa.string()),
    pa.field("uri", pa.string()),
    pa.field("row", pa.int64()),
    pa.field("bytes", pa.int64()),
    pa.field("etag", pa.string()),
    pa.field("mtime", pa.string()),
]


def list_input(url: str, *, rules: Rules = STRICT) -> Iterator[pa.Table]:
    """List the images of a folder, a glob, a `.txt` list, archives or a Parquet table.

    The input is listed and sorted before this returns; the tables are read from temporary files later.

    Args:
        url: The input.
        rules: What is accepted from lists and tables.

    Returns:
        Tables of some thousand images, with `IMAGE_FIELDS`, ordered by id as Python compares texts.

    Raises:
        UserError: There are none, they cannot be listed, the input names a secret or what the rules forbid, or an id
            occurs twice; the last may be raised by the iterator.
    """
    problem = secret_of(url, rules=rules)
    if problem:
        raise UserError(f"--images {redact_signed(url)} {problem}")
    tables = _unique(sort_rows(_tables(_source(url, rules)), "image_id"), url)
    return itertools.chain(list(itertools.islice(tables, 1)), tables)


def _source(url: str, rules: Rules) -> Iterator[InputImage]:
    """Return the images of an input in any order. Each form of input has a function of its own."""
    if url.endswith((".txt", ".lst")):
        return _from_list(url, rules)
    if _is_parquet(url):
        return _from_tables(url, rules)
    return _from_files(url)


def _tables(images: Iterable[InputImage]) -> Iterator[pa.Table]:
    """Turn images into tables, and show the progress."""
    images = iter(images)
    schema = pa.schema(IMAGE_FIELDS)
    with Progress(title="listing", delay=2) as progress:
        while page := list(itertools.islice(images, PAGE)):
            columns = dict(zip(InputImage._fields, map(list, zip(*page, strict=True)), strict=True))
            yield pa.table(columns, schema=schema)
            progress.update(len(page))


def _unique(tables: Iterable[pa.Table], url: str) -> Iterator[pa.Table]:
    """Check sorted images while they pass.

    Raises:
        UserError: Two have the same id.
    """
    last = pa.schema(IMAGE_FIELDS).empty_table()
    for table in tables:
        known = pa.concat_tables([last, table])
        ids = known["image_id"]
        twice = pc.indices_nonzero(pc.equal(ids[1:], ids[:-1]))
        if len(twice):
            raise UserError(f"{storage.redact(url)}: {_twice(*known.slice(twice[0].as_py(), 2).to_pylist())}")
        last = table.slice(table.num_rows - 1)
        yield table


def _twice(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Describe two images with the same id."""
    places = [storage.redact(row_uri(image["uri"], image["row"], image["bytes"])) for image in (one, other)]
    return (
        f"the image id '{one['image_id']}' occurs twice, for {places[0]} and {places[1]}; name each image once, or "
        "give their ids in the column 'image_id' of a table"
    )


def _from_files(url: str) -> Iterator[InputImage]:
    """List a folder or glob: its image files or, if there are none, the images in its archives."""
    pattern = archive.as_glob(url)
    fs, path = storage.filesystem(pattern)
    root = glob_root(path) if glob_root(path) != path and not fs.exists(path) else path
    archives: list[storage.StoredFile] = []
    others, is_empty = 0, True
    with storage.friendly_errors(url, "cannot list"):
        files = iter_files(pattern)
        for file in files if pattern == url else archive.only_numbered(list(files), url):
            key = listed_id(datasets.exact_key(file.path, root))
            if datasets.is_image(key):
                is_empty = False
                yield _listed(key, storage.url_of(fs, file.path), file)
            elif archive.is_packed(key):
                archives.append(file)
            else:
                others += 1
    if not is_empty:
        return
    archives = archive.find_archives(archives, root)
    keys = [listed_id(datasets.exact_key(file.path, root)) for file in archives]
    places = [storage.url_of(fs, file.path) for file in archives]
    for image in _from_archives(list(zip(keys, places, archives, strict=True))):
        is_empty = False
        yield image
    if is_empty:
        found = f"{len(archives)} archives" if archives else f"{others} other files" if others else NOTHING_FOUND
        raise UserError(f"no images in {storage.redact(url)} (found {found})")


def _listed(image_id: str, place: str, file: storage.StoredFile) -> InputImage:
    """Return the image that a file of a listing is."""
    row = NO_ROW if storage.is_utf8(place) else NOT_UTF_8
    return InputImage(image_id, storage.printable(place), row, file.size, file.etag, file.mtime)


def _from_archives(archives: list[tuple[str, str, storage.StoredFile]]) -> Iterator[InputImage]:
    """List the images in archives, each given by its id, URL and entry of the listing."""
    readable = [given for given in archives if storage.is_utf8(given[1])]
    yield from (_listed(*given) for given in archives if not storage.is_utf8(given[1]))
    listed = archive.list_archives([(key, place, file.size) for key, place, file in readable])
    for (_, place, file), images in zip(readable, listed, strict=True):
        for image in images:
            yield InputImage(image.image_id, place, image.offset, image.size, file.etag, file.mtime)


def _from_list(url: str, rules: Rules) -> Iterator[InputImage]:
    """Read URLs, or keys relative to the list's folder, one a line; the store is not asked for their sizes."""
    folder, rules = posixpath.dirname(url), rules.of(url)
    archives = []
    is_empty = True
    for number, line in _lines(url):
        is_empty = False
        uri = line if _is_absolute(line) else storage.join(folder, line)
        check_place(uri, source=url, where=f"line {number}", rules=rules)
        file = storage.StoredFile(uri, 0, "", "")
        if archive.is_archive(uri):
            archives.append((named_id(line), uri, file))
        else:
            yield _listed(named_id(line), uri, file)
    if is_empty:
        raise UserError(f"the list {storage.redact(url)} is empty")
    yield from _from_archives(archives)


def _lines(url: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers from 1, without blank lines and `#` comments."""
    fs, path = storage.filesystem(url)
    with (
        storage.friendly_errors(url, "cannot read the list"),
        fs.open(path, "rb", block_size=READ_AHEAD) as file,
        io.TextIOWrapper(file, "utf-8-sig", "surrogateescape") as text,
    ):
        for number, line in enumerate(map(str.strip, text), start=1):
            if line and not line.startswith("#"):
                yield number, line


def _is_absolute(line: str) -> bool:
    return "://" in line or line.startswith("/")


def _is_parquet(url: str) -> bool:
    if url.endswith((".parquet", ".pq")):
        return True
    if posixpath.splitext(url)[1]:
        return False
    is_empty = True
    with storage.friendly_errors(url, "cannot list"):
        for file in iter_files(url):  # of a folder of images, only the first page is listed
            if "/_" not in file.path:
                is_empty = False
                if not file.path.endswith(".parquet"):
                    return False
    return not is_empty


def _from_tables(url: str, rules: Rules) -> Iterator[InputImage]:
    with storage.friendly_errors(url, "cannot list"):
        files = [f for f in iter_files(url) if f.path.endswith((".parquet", ".pq")) and "/_" not in f.path]
    if not files:
        raise UserError(f"{storage.redact(url)}: no Parquet file there")
    fs, root = storage.filesystem(url)
    rules = rules.of(url)
    for file in files:
        place = storage.url_of(fs, file.path)
        if not storage.is_utf8(place):
            raise UserError(f"{storage.printable(place)}: the name of this table is not UTF-8; rename it")
        key = listed_id(datasets.exact_key(file.path, root))
        with storage.friendly_errors(place, "cannot read the table"), storage.open_file(fs, file.path) as handle:
            parquet = pq.ParquetFile(handle)
            uris = uri_column(parquet.schema_arrow)
            size = file.size // max(1, parquet.metadata.num_rows)
            if uris is None:
                image_column(parquet.schema_arrow, place)
            for i, (image_id, uri) in enumerate(_ids_and_urls(parquet, uris)):
                if uris is None:
                    known = named_id(image_id) if image_id else row_uri(key, i)
                    yield InputImage(known, place, i, size, file.etag, file.mtime)
                elif uri:
                    check_place(uri, source=place, where=f"row {i} (counted from 0)", rules=rules)
                    yield InputImage(named_id(image_id or uri), uri, NO_ROW, 0, "", "")
                else:
                    raise UserError(f"{storage.redact(place)}: row {i} (counted from 0) has no {uris}")


def _ids_and_urls(parquet: pq.ParquetFile, uris: str | None) -> Iterator[tuple[str | None, str | None]]:
    """Yield the id and the URL of each row of a table, None where there is no such column."""
    columns = [name for name in (ID_COLUMN, uris) if name in parquet.schema_arrow.names]
    for batch in parquet.iter_batches(batch_size=PAGE, columns=columns):
        nothing = [None] * batch.num_rows
        ids = batch[ID_COLUMN].cast(pa.string()).to_pylist() if ID_COLUMN in columns else nothing
        urls = batch[uris].to_pylist() if uris else nothing
        yield from zip(ids, urls, strict=True)
