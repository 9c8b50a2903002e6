"""The encoded bytes of an image of a plan, complete and in the version that the plan has.

A file that is gone or has changed since the plan was made is a fault of the image. Anything else that keeps its bytes
from arriving is a fault of the store: it is waited for, and never becomes an image's error row by itself.
"""

import os
from typing import Any, NamedTuple

from pipeline import faults, retry, storage
from pipeline.bulk.archives.archive import is_archive, read_member
from pipeline.bulk.table_input import NO_ROW, check_readable, read_table_images
from pipeline.data.formats import ImageError
from pipeline.errors import ImageFault
from pipeline.walk import glob_root, has_wildcard

Image = dict[str, Any]  # a row of the plan


class Source(NamedTuple):
    """What holds for all images of a plan.

    Attributes:
        root: The run's input.
        planned: Time at which the plan was made, in seconds since the epoch.
    """

    root: str
    planned: float


class FileGone(ImageFault):
    """The file of an image was removed after the plan was made."""


class FileChanged(ImageFault):
    """The file of an image is another than when the plan was made."""


def read_planned(image: Image, source: Source) -> bytes:
    """Read the encoded bytes of an image.

    Args:
        image: Its row of the plan.
        source: Where the plan's images come from.

    Raises:
        FileGone: The file is not there any more.
        FileChanged: Its size, entity tag or time is not the plan's.
        ImageFault: The table or archive holds no such image.
        faults.StoreFault: The store fails for longer than this process waits for it.
    """
    uri, row = image["uri"], image["row"]
    with faults.store_faults(uri):
        check_readable(uri, row, image["bytes"])
        if row == NO_ROW:
            return retry.patiently(lambda: _read_file(image, source), uri)
        if is_archive(uri):
            return read_member(uri, row, image["bytes"])
        found = read_table(uri, [row])[row]
    if isinstance(found, ImageError):
        raise found
    return found


def read_table(uri: str, rows: list[int]) -> dict[int, bytes | ImageError]:
    """Read the encoded images in some rows of a Parquet table; see `read_table_images`.

    Raises:
        ImageFault: The table is damaged there.
        faults.StoreFault: The store fails for longer than this process waits for it.
    """
    with faults.store_faults(uri):
        for _ in range(3):  # what arrives damaged may be whole the next time
            try:
                return retry.patiently(lambda: _read_table(uri, rows), uri)
            except ImageFault as error:
                damage = error
        raise damage


def _read_table(uri: str, rows: list[int]) -> dict[int, bytes | ImageError]:
    try:
        return read_table_images(uri, rows)
    except Exception as error:
        # Arrow raises a plain OSError for pages that it cannot decompress; a store's has a number or its own class.
        if (type(error) is OSError and error.errno is None) or type(error).__module__.startswith("pyarrow"):
            raise ImageFault(f"the table is damaged: {faults.explain(error)}") from None
        raise


def _read_file(image: Image, source: Source) -> bytes:
    fs, path = storage.filesystem(image["uri"])
    was_listed = bool(image["etag"] or image["mtime"])
    try:
        if storage.is_local_filesystem(fs) and was_listed:
            _check_local(image, os.stat(path), source.planned)
        sent = storage.read_once(fs, path)
        size, etag = len(sent.data), sent.etag
        if (image["bytes"] and size != image["bytes"]) or (image["etag"] and etag and etag != image["etag"]):
            now = storage.entry(fs, path)
            if now.size != image["bytes"] or now.etag != image["etag"]:
                raise _changed(image, now.size)
            if size != now.size:
                raise OSError(f"the store sent {size:,} of {now.size:,} bytes")
    except FileNotFoundError as error:
        if not was_listed or faults.fault_of(error) is not faults.Fault.FILE:
            raise
        if storage.is_local_filesystem(fs) and _is_unmounted(source.root):
            raise OSError(f"nothing is left in {source.root}: is its disk mounted?") from None
        raise FileGone("the file is not there any more: it was removed after the plan of this run was made") from None
    return sent.data


def _is_unmounted(root: str) -> bool:
    """Tell whether a local input is not there or an empty folder, as a mount point is without its disk."""
    if has_wildcard(root):
        root = glob_root(root)
    if not os.path.isdir(root):
        return not os.path.exists(root)
    with os.scandir(root) as entries:
        return next(entries, None) is None


def _check_local(image: Image, now: os.stat_result, planned: float) -> None:
    """Compare a local file with the plan. A node may have a copy with another time, but that is before the plan's."""
    written_since = now.st_mtime > planned and str(now.st_mtime or now.st_ctime) != image["mtime"]
    if now.st_size != image["bytes"] or written_since:
        raise _changed(image, now.st_size)


def _changed(image: Image, size: int) -> FileChanged:
    sizes = f" ({image['bytes']:,} bytes then, {size:,} now)" if size != image["bytes"] else ""
    return FileChanged(
        f"the file has changed since the plan of this run was made{sizes}; a run with --since takes the new version"
    )
