"""Archives as input: which files are archives, which images are in them, and the bytes of one of these.

An image in an archive is named by the byte offset of its header. Listing notes that offset and the size in the plan, so
that a worker needs no index of the archive.
"""

import posixpath
import re
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pipeline import storage
from pipeline.bulk.archives.range_file import RangeFile
from pipeline.bulk.archives.tar import compressed_tar, list_tar, read_tar_member
from pipeline.bulk.archives.zip import list_zip, read_zip_member
from pipeline.data import datasets
from pipeline.data.image_ids import listed_id, without_mark
from pipeline.errors import UserError

COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4")
THREADS = 16  # archives that are listed at a time
_NUMBERS = re.compile(r"\{(\d+)\.\.(\d+)\}")
_SUFFIX = re.compile(r"\.(tar|zip)/", re.IGNORECASE)
_MEMBER = re.compile(r"(.+)#offset=(\d+)&size=(\d+)", re.DOTALL)


class ArchivedImage(NamedTuple):
    """An image in an archive.

    Attributes:
        image_id: Key of the archive, "/" and name of the member; unique in the archive. If an earlier member has the
            same name, "#offset=N" stands before the suffix. Where a damaged archive cannot be read on, the id is the
            archive's key and "#offset=N".
        offset: Byte offset of the member's header.
        size: Size in the archive.
    """

    image_id: str
    offset: int
    size: int


def is_archive(url: str) -> bool:
    """Tell by the suffix whether a file is an archive of images."""
    return url.lower().endswith((".tar", ".zip"))


def is_packed(key: str) -> bool:
    """Tell by its name whether a file may hold images, also if it is of a kind that is not read."""
    return is_archive(key) or key.lower().endswith(COMPRESSED_TARS)


def as_glob(url: str) -> str:
    """Return a glob that finds the files of numbered names: `train-{000..123}.tar` -> `train-*.tar`."""
    return re.sub(f"(?:{_NUMBERS.pattern})+", "*", url)


def only_numbered(files: Sequence[storage.StoredFile], url: str) -> list[storage.StoredFile]:
    """Return those of the files that `as_glob` finds which the numbers name; all if the URL has none.

    Raises:
        UserError: One of them is missing.
    """
    if not _NUMBERS.search(url):
        return list(files)
    by_path = {file.path: file for file in files}
    names = _numbered(storage.filesystem(url)[1])
    missing = [name for name in names if name not in by_path]
    if missing:
        raise UserError(f"{storage.redact(url)}: {len(missing)} of {len(names)} are missing, first: {missing[0]}")
    return [by_path[name] for name in names]


def _numbered(path: str) -> list[str]:
    match = _NUMBERS.search(path)
    if match is None:
        return [path]
    numbers = (f"{number:0{len(match[1])}d}" for number in range(int(match[1]), int(match[2]) + 1))
    return [name for number in numbers for name in _numbered(path[: match.start()] + number + path[match.end() :])]


def find_archives(files: Sequence[storage.StoredFile], root: str) -> list[storage.StoredFile]:
    """Return the archives among the files below a root, in the order of the ids of their images.

    Raises:
        UserError: One is a compressed tar.
    """
    found = []
    for file in files:
        key = listed_id(datasets.exact_key(file.path, root))
        if datasets.is_hidden(key):
            continue
        if key.lower().endswith(COMPRESSED_TARS):
            raise compressed_tar(file.path)
        if is_archive(key):
            found.append((f"{key}/", file))
    return [file for _, file in sorted(found)]


def list_archives(archives: Sequence[tuple[str, str, int]]) -> Iterator[list[ArchivedImage]]:
    """List the images of archives, several archives at a time, and print a line about each unusual archive.

    Args:
        archives: Key below the input's root, URL and size of each archive.

    Yields:
        The images of each archive in turn, ordered by id.

    Raises:
        UserError: The store fails, or an archive is a compressed tar.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        for (_, url, _), (images, notes) in zip(archives, pool.map(lambda a: list_archive(*a), archives), strict=True):
            for note in notes:
                print(f"{storage.redact(url)}: {note}")
            yield images


def list_archive(key: str, url: str, size: int) -> tuple[list[ArchivedImage], list[str]]:
    """List the images of an archive, ordered by id.

    Args:
        key: Its path below the input's root.
        url: The archive.
        size: Its size in bytes; 0 where the store has not told it.

    Returns:
        The images, and what is unusual about the archive, a line each.

    Raises:
        UserError: The store fails, or the archive is a compressed tar.
    """
    with storage.friendly_errors(url, "cannot read the archive"):
        try:
            file = RangeFile(url, size or storage.size_of(url))
            contents = list_tar(file) if url.lower().endswith(".tar") else list_zip(file)
        except FileNotFoundError:  # a dangling link, or removed meanwhile: the image's row says so
            return [_unlisted(key, 0)], []
    found: dict[str, ArchivedImage] = {}
    notes = list(contents.notes)
    repeated = 0
    for member in contents.members:
        if datasets.is_image(member.name):
            image_id = f"{key}/{member.name}"
            repeated += image_id in found
            while image_id in found:
                stem, suffix = posixpath.splitext(image_id)
                image_id = f"{stem}#offset={member.offset}{suffix}"
            found[image_id] = ArchivedImage(image_id, member.offset, member.size)
    if repeated:
        notes.append(f"{repeated} images have the name of an earlier one; their ids contain #offset=N")
    images = sorted(found.values())
    if contents.damage is not None and all(image.offset != contents.damage for image in images):
        images.insert(0, _unlisted(key, contents.damage))
    return images, notes


def _unlisted(key: str, offset: int) -> ArchivedImage:
    """Return the image that stands for all those of an archive that cannot be listed."""
    return ArchivedImage(f"{key}#offset={offset}", offset, 0)


def truth_key(image_id: str, known: Container[str]) -> str:
    """Return the key of an image's ground truth: its id without suffix and mark, `train-000.tar/a`.

    Where that is not known, the archive's suffix is removed, too: `train-000/a`.
    """
    key = without_mark(datasets.without_image_suffix(image_id))
    return key if key in known else _SUFFIX.sub("/", key, count=1)


def member_uri(url: str, offset: int, size: int) -> str:
    """Name an image in an archive: `ARCHIVE.tar#offset=N&size=M`."""
    return f"{url}#offset={offset}&size={size}"


def split_member_uri(uri: str) -> tuple[str, int, int] | None:
    """Return archive, offset and size of an image that `member_uri` has named; None for another URI."""
    match = _MEMBER.fullmatch(uri)
    return (match[1], int(match[2]), int(match[3])) if match and is_archive(match[1]) else None


def read_member(url: str, offset: int, size: int) -> bytes:
    """Read an encoded image from an archive, in one request.

    Args:
        url: The archive.
        offset: See `ArchivedImage`.
        size: See `ArchivedImage`.

    Raises:
        MemberError: The archive holds no such image, or one that cannot be read.
        OSError: The store fails.
    """
    read = read_tar_member if url.lower().endswith(".tar") else read_zip_member
    return read(url, offset, size)
