"""The one way to open a path: any fsspec URL (`s3://`, `file://`, `memory://`, …) or plain path.

The S3 endpoint and credentials come from where every AWS tool takes them: environment variables, `~/.aws`, or the
instance role. fsspec is imported when the first path is opened, because option classes, which only name paths, must
load fast.
"""

import errno
import os
import posixpath
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, NamedTuple
from uuid import uuid4

from pydantic import AfterValidator

from pipeline import faults, retry
from pipeline.errors import SpecialFileError, UserError
from pipeline.s3_options import s3_options
from pipeline.secrets import has_credentials, redact

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

    from pipeline.get_s3 import Sent


class StoredFile(NamedTuple):
    """A listed file.

    Attributes:
        path: Path on its file system.
        size: Size in bytes; 0 where the store does not tell.
        etag: Entity tag; empty where the store has none.
        mtime: Time of the last change as the store writes it; empty where the store has none.
    """

    path: str
    size: int
    etag: str
    mtime: str


class Page(NamedTuple):
    """A part of a listing: files, and the paths of folders if these are not listed themselves."""

    files: list[StoredFile]
    folders: list[str]


def filesystem(url: str) -> tuple["AbstractFileSystem", str]:
    """Return the file system of a URL, and the path on it.

    Chained URLs (`zip://…::s3://…`) are taken as plain keys.

    Raises:
        UserError: The protocol is unknown or lacks its package.
    """
    import fsspec
    from fsspec.core import split_protocol

    protocol, _ = split_protocol(url)
    protocol = protocol or "file"
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except (ValueError, ImportError) as error:
        raise UserError(f"{redact(url)}: cannot open '{protocol}://' URLs: {error}") from None
    options: dict[str, Any] = dict(kind._get_kwargs_from_urls(url))
    if protocol in ("s3", "s3a"):
        options |= s3_options()
    return fsspec.filesystem(protocol, **options), kind._strip_protocol(url)


def absolute(url: str) -> str:
    """Return the URL with a relative plain path made absolute: workers have other working directories.

    Raises:
        ValueError: It is not UTF-8, or holds credentials, which the plan of a run or a bundle's card would store.
    """
    if not is_utf8(url):
        raise ValueError("the path is not UTF-8; rename the file or folder")
    if has_credentials(url):
        raise ValueError(
            "a URL must not hold a key or password; give them in the environment (for S3, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
        )
    if "://" in url:
        return url if url.endswith("://") else url.rstrip("/")
    return os.path.abspath(os.path.expanduser(url))


Url = Annotated[str, AfterValidator(absolute)]
"""A field of a configuration that names a place on storage."""


def is_utf8(text: str) -> bool:
    """Tell whether a path is UTF-8; Python stands in for other bytes by code points that no file can hold."""
    return text.isascii() or text.encode("utf-8", "ignore").decode() == text


def printable(text: str) -> str:
    r"""Return a path with each byte that is not UTF-8 written as `\xNN`."""
    return text if is_utf8(text) else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def join(url: str, *parts: str) -> str:
    """Return `url/part/part`, for any URL."""
    if url.endswith("://"):
        return url + "/".join(parts)
    return posixpath.join(url.rstrip("/") or "/", *parts)


def is_local(url: str) -> bool:
    """Tell whether a URL lies on a file system of this machine (which may be mounted from another)."""
    return is_local_filesystem(filesystem(url)[0])


def is_local_filesystem(fs: "AbstractFileSystem") -> bool:
    """Tell whether a file system is that of this machine."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def is_s3(fs: "AbstractFileSystem") -> bool:
    """Tell whether a file system is S3, from AWS or another server."""
    return "s3" in fs.protocol


def url_of(fs: "AbstractFileSystem", path: str) -> str:
    """Return the URL of a path; local files stay plain paths, which every tool opens."""
    return path if is_local_filesystem(fs) else fs.unstrip_protocol(path)


def read_bytes(url: str) -> bytes:
    """Read a file, in one request, repeated while the store fails.

    Raises:
        SpecialFileError: It is no regular file.
    """
    return read_object(url).data


def read_range(url: str, start: int, end: int) -> bytes:
    """Read the bytes from `start` to before `end`, in one request; fewer if the file ends earlier.

    Raises:
        SpecialFileError: It is no regular file.
        OSError: The store cannot read parts of a file.
    """
    data = read_object(url, start, end).data
    if len(data) > end - start:
        raise OSError(f"the store sent {len(data)} bytes for a range of {end - start}")
    return data


def read_object(url: str, start: int | None = None, end: int | None = None) -> "Sent":
    """Read a file, or the bytes from `start` to before `end`, with its entity tag where the store sends one."""
    fs, path = filesystem(url)
    return retry.patiently(lambda: read_once(fs, path, start, end), url)


def read_once(fs: "AbstractFileSystem", path: str, start: int | None = None, end: int | None = None) -> "Sent":
    """Read a file, or a part of it, without another attempt if the store fails."""
    from pipeline.get_s3 import Sent, get

    refuse_special(fs, path)
    try:
        return get(fs, path, start, end) if is_s3(fs) else Sent(fs.cat_file(path, start=start, end=end), "")
    except OSError as error:
        if start is not None and error.errno == errno.EINVAL:  # S3: the file ends before the range
            return Sent(b"", "")
        raise


def read_text(url: str, *, noun: str) -> str:
    """Read a text file that the user named, with a clear error in place of any failure.

    Args:
        url: The file.
        noun: What the file is to the user, as in "class file".

    Raises:
        UserError: It cannot be read.
    """
    with friendly_errors(url, f"cannot read the {noun}"):
        return read_bytes(url).decode("utf-8")


def refuse_special(fs: "AbstractFileSystem", path: str) -> None:
    """Refuse to open a local file that is not a regular one.

    Raises:
        SpecialFileError: It is a pipe, a socket or a device.
    """
    if is_local_filesystem(fs):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise SpecialFileError("it is a pipe, a socket or a device; replace it by a regular file")


def open_file(fs: "AbstractFileSystem", path: str) -> IO[bytes]:
    """Open a listed file for reading.

    Raises:
        SpecialFileError: It is no regular file.
    """
    refuse_special(fs, path)
    return fs.open(path, "rb")


def write_bytes(url: str, data: bytes) -> None:
    """Write a file atomically: a reader sees the whole file or none, even when the writer is killed."""
    from fsspec.asyn import AsyncFileSystem

    fs, path = filesystem(url)
    if is_local_filesystem(fs):
        retry.patiently(lambda: _write_local(path, lambda file: file.write(data)), url)
    else:
        if not isinstance(fs, AsyncFileSystem):  # object stores have no folders, and s3fs would make the bucket
            fs.makedirs(fs._parent(path), exist_ok=True)
        # Object stores show an object only when its upload has ended.
        retry.patiently(lambda: fs.pipe_file(path, data), url)


def upload(local: Path, url: str) -> None:
    """Copy a local file to storage, atomically."""
    fs, path = filesystem(url)
    if is_local_filesystem(fs):
        retry.patiently(lambda: _copy_local(local, path), url)
    else:
        retry.patiently(lambda: fs.put_file(str(local), path), url)


def _copy_local(local: Path, path: str) -> None:
    with local.open("rb") as source:
        _write_local(path, lambda file: shutil.copyfileobj(source, file))


def _write_local(path: str, write: Callable[[IO[bytes]], object]) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".writing-{uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def exists(url: str) -> bool:
    """Tell whether a file or folder exists."""
    fs, path = filesystem(url)
    return retry.patiently(lambda: fs.exists(path), url)


def size_of(url: str) -> int:
    """Return the size of a file in bytes.

    Raises:
        OSError: It does not exist, or the store does not tell.
    """
    fs, path = filesystem(url)
    size = retry.patiently(lambda: fs.info(path)["size"], url)
    if size is None:
        raise OSError("the store does not tell the size of the file")
    return size


def remove(url: str) -> None:
    """Remove a file, if it exists."""
    fs, path = filesystem(url)
    with suppress(FileNotFoundError):
        retry.patiently(lambda: fs.rm_file(path), url)


def list_files(url: str) -> list[StoredFile]:
    """List every file below a folder, ordered by path; an empty list if there are none.

    The listing is held in memory; `walk.iter_files` lists any number of files, and globs. A symbolic link to a file is
    listed as that file. One that leads nowhere, a pipe, a socket and a device are listed as empty files, so that
    reading them fails and nothing is left out silently. Links to folders are not followed.
    """
    fs, path = filesystem(url)
    listed = retry.patiently(lambda: fs.find(path, detail=True), url)
    infos = (_link_target(info) if info.get("islink") else info for info in listed.values())
    # Some tools mark an S3 folder by an empty object whose name ends with a slash.
    files = (info for info in infos if info["type"] != "directory" and not info["name"].endswith("/"))
    return sorted(stored_file(info) for info in files)


def _link_target(info: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of a local symbolic link with type, size and time of its target."""
    try:
        target = os.stat(info["name"])
    except OSError:
        return info | {"type": "file", "size": 0}
    kind = "directory" if stat.S_ISDIR(target.st_mode) else "file"
    return info | {"type": kind, "size": target.st_size, "mtime": target.st_mtime}


def entry(fs: "AbstractFileSystem", path: str) -> StoredFile:
    """Return a file as a listing has it now.

    Raises:
        FileNotFoundError: There is none.
    """
    if not is_s3(fs):
        return stored_file(fs.info(path))
    bucket, _, key = path.partition("/")
    found = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1, **fs.req_kw).get("Contents", [])
    if not found or found[0]["Key"] != key:
        raise FileNotFoundError(path)
    return stored_file(found[0] | {"name": path, "size": found[0]["Size"]})


def stored_file(info: dict[str, Any]) -> StoredFile:
    """Return a file as fsspec describes it."""
    mtime = info.get("LastModified") or info.get("mtime") or info.get("created") or ""
    etag = str(info.get("ETag") or info.get("etag") or "").strip('"')
    return StoredFile(info["name"], int(info.get("size") or 0), etag, str(mtime))


def check_writable(url: str) -> None:
    """Write and remove a small file below a folder.

    Raises:
        UserError: The folder cannot be written to.
    """
    probe = join(url, f".segpipe-can-write-{os.getpid()}")
    with friendly_errors(url, "cannot write to the output"):
        write_bytes(probe, b"")
        remove(probe)


@contextmanager
def friendly_errors(url: str, problem: str) -> Iterator[None]:
    """Turn any error of a store into a `UserError` whose one line names the URL and the setting to look at.

    It is a `faults.StoreFault`, with another exit code, if it may pass by itself.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        passes = faults.fault_of(error) is faults.Fault.STORE
        kind = faults.StoreFault if passes else UserError
        raise kind(f"{problem} {redact(url)}: {faults.explain(error)}") from None
