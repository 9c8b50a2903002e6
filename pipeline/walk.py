"""Listing any number of files: those below a folder, or those that a glob names, in no particular order.

`storage.list_files` is for short listings. A listing here holds a few pages of files at a time.
"""

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from pipeline import storage, walk_s3
from pipeline.storage import Page, StoredFile
from pipeline.threads import interleave

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

WILDCARDS = "*?["
PAGE = 1000  # files of a local folder that are handed on at a time
FOLDERS = 64  # listed before the folders in them: the names of few folders wait in memory


def iter_files(url: str) -> Iterator[StoredFile]:
    """Yield every file below a folder, or the files that a glob names; nothing if there are none.

    A link to a local file is listed as that file. One that leads nowhere, a pipe, a socket and a device are listed as
    empty files, so that reading them fails and nothing is left out silently. Links to folders are not followed.
    """
    fs, path = storage.filesystem(url)
    is_glob = has_wildcard(path) and not fs.exists(path)
    for files, _ in _matching(fs, path) if is_glob else _below(fs, path):
        yield from files


def has_wildcard(path: str) -> bool:
    """Tell whether a path has a character that means something in a glob."""
    return any(c in path for c in WILDCARDS)


def glob_root(path: str) -> str:
    """Return the folder above the first wildcard: `a/b/2026-*/x.jpg` -> `a/b`."""
    parts = path.split("/")
    for i, part in enumerate(parts):
        if has_wildcard(part):
            return "/".join(parts[:i])
    return path


def _below(fs: "AbstractFileSystem", path: str, stem: str = "") -> Iterator[Page]:
    """Yield pages of all files below a folder, on S3 only of those whose path continues with a stem."""
    if storage.is_s3(fs):
        yield from walk_s3.below(fs, path, stem)
        return
    folders = [path]
    while folders:
        some, folders[-FOLDERS:] = folders[-FOLDERS:], []
        for page in _list_folders(fs, some):
            yield page
            folders += page.folders


def _matching(fs: "AbstractFileSystem", path: str) -> Iterator[Page]:
    """Yield pages of the files that a glob names."""
    from fsspec.utils import glob_translate

    root = glob_root(path)
    *middle, last = path[len(root) :].lstrip("/").split("/")
    matches = re.compile(glob_translate(path)).match
    if "**" in path:
        pages = _below(fs, root or fs.root_marker, _stem((*middle, last)[0]))
    else:
        folders = [root or fs.root_marker]
        for part in middle:
            folders = _subfolders(fs, folders, part)
        pages = _list_folders(fs, folders, _stem(last))
    for files, _ in pages:
        yield Page([file for file in files if matches(file.path)], [])


def _stem(part: str) -> str:
    """Return the part of a path's component before its first wildcard."""
    return re.split(f"[{re.escape(WILDCARDS)}]", part, maxsplit=1)[0]


def _subfolders(fs: "AbstractFileSystem", folders: list[str], part: str) -> list[str]:
    """Return the folders in some folders that match a component of a glob."""
    from fsspec.utils import glob_translate

    if not has_wildcard(part):
        return [f"{folder.rstrip('/')}/{part}" for folder in folders]
    matches = re.compile(glob_translate(part)).match
    found = (name for page in _list_folders(fs, folders, _stem(part)) for name in page.folders)
    return [name for name in found if matches(name.rsplit("/", 1)[-1])]


def _list_folders(fs: "AbstractFileSystem", folders: Iterable[str], stem: str = "") -> Iterator[Page]:
    """Yield pages of the files and folders in some folders; S3 lists only names that begin with a stem."""
    if storage.is_s3(fs):
        return interleave(walk_s3.folder(fs, folder, stem) for folder in folders)
    if storage.is_local_filesystem(fs):
        return itertools.chain.from_iterable(map(_local_folder, folders))
    return interleave(_any_folder(fs, folder) for folder in folders)


def _local_folder(path: str) -> Iterator[Page]:
    if os.path.isfile(path):
        yield Page([_local_file(path, os.stat(path))], [])
    if not os.path.isdir(path):
        return
    with os.scandir(path) as entries:
        while some := list(islice(entries, PAGE)):
            files = [_local_file(entry.path, entry.stat()) for entry in some if _is_file(entry)]
            files += [StoredFile(entry.path, 0, "", "") for entry in some if _is_unreadable(entry)]
            yield Page(files, [entry.path for entry in some if entry.is_dir(follow_symlinks=False)])


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def _is_unreadable(entry: "os.DirEntry[str]") -> bool:
    """Tell whether an entry is neither a file nor a folder, nor a link to one."""
    return not _is_file(entry) and not os.path.isdir(entry.path)


def _local_file(path: str, stat: os.stat_result) -> StoredFile:
    return StoredFile(path, stat.st_size, "", str(stat.st_mtime or stat.st_ctime))


def _any_folder(fs: "AbstractFileSystem", path: str) -> Iterator[Page]:
    """List a folder with fsspec alone: in one page."""
    try:
        entries = fs.ls(path, detail=True)
    except FileNotFoundError:
        return
    folders = [info["name"].rstrip("/") for info in entries if info["type"] == "directory"]
    yield Page(
        [storage.stored_file(info) for info in entries if info["type"] == "file" and not info["name"].endswith("/")],
        [name for name in folders if name != path.rstrip("/")],  # some stores list a folder in itself
    )
