"""The ids of images: unique relative paths, below which anyone may write a mask without leaving a folder.

An id has no empty, `.` or `..` component, and is UTF-8. An ordinary key is its own id.
"""

import hashlib
import posixpath
import re

from pipeline import storage

_MARK = re.compile(r"#id=[0-9a-f]{16}(?=(?:\.[^./]*)?$)")


def safe_path(name: str) -> str:
    """Return a path below a root: a leading `/`, `..` and NUL do not lead out of it; empty if nothing is left."""
    return posixpath.normpath("/" + name.partition("\0")[0]).lstrip("/")


def listed_id(key: str) -> str:
    """Return the id of a listed file.

    If the key is no id, `#id=` and a hash of the key stand before the suffix of its safe form, so that no two files of
    a listing have the same id. Otherwise, who can add a file to a bucket could stop the runs over it.

    Args:
        key: Path below the root of the listing.
    """
    safe = storage.printable(safe_path(key))
    if safe == key and not _MARK.search(key):
        return key
    stem, suffix = posixpath.splitext(safe)
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{stem}#id={digest[:16]}{suffix}"


def without_mark(image_id: str) -> str:
    """Return an id without the `#id=` that `listed_id` gave it."""
    return _MARK.sub("", image_id)


def named_id(place: str) -> str:
    """Return the id of a path or URL that a list or table names: `s3://bucket/../a.jpg` -> `s3/a.jpg`.

    Two names may have the same id (`a.jpg` and `./a.jpg`). Their author can change that, unlike that of a listing.
    """
    name = storage.redact(place).replace("://", "/", 1)
    safe = safe_path(name)
    return safe if safe and storage.is_utf8(safe) else listed_id(name)
