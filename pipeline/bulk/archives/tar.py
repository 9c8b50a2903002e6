"""Tar archives: listing their headers (ustar, GNU and pax), and reading a member by the offset of its header."""

import tarfile
from tarfile import BLOCKSIZE, TarInfo
from typing import NamedTuple

from pipeline import storage
from pipeline.bulk.archives.member import Contents, Member, MemberError, no_member
from pipeline.bulk.archives.range_file import RangeFile
from pipeline.data.image_ids import safe_path
from pipeline.errors import UserError

# What compressed files begin with: gzip, bzip2, xz, Zstandard, LZ4.
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENSIONS = (*_PAX, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_LARGEST_EXTENSION = 2**20  # bytes of a long name or of pax records; more is damage
_PADDING = 2**20  # bytes that may follow the end mark: writers fill their last record
# Offsets of the flags in an old GNU sparse header, and in the next block of its map, that another block follows.
_SPARSE_FLAG, _NEXT_SPARSE_FLAG = 482, 504


class _DamagedError(Exception):
    """There is no valid header where one should be."""


class _Header(NamedTuple):
    """The fields of a header that are used."""

    name: str
    kind: bytes
    size: int


class _Entry(NamedTuple):
    """A member of any kind.

    Attributes:
        name: Its path.
        is_file: It is a regular file.
        place: Offset of its header; of a sparse file, of a header that `read_tar_member` refuses.
        size: Size of its data.
        end: Offset of the first byte after its data.
    """

    name: str
    is_file: bool
    place: int
    size: int
    end: int


def compressed_tar(url: str) -> UserError:
    """Return the error that refuses a tar that is compressed as a whole."""
    return UserError(
        f"{storage.redact(url)} is a compressed tar, in which no image can be read alone: decompress it, or pack the "
        "images as .zip"
    )


def list_tar(file: RangeFile) -> Contents:
    """List the files of a tar by its headers.

    The members before a damaged header are listed. A member that is cut off is listed too, and cannot be read.

    Raises:
        UserError: It is compressed.
    """
    members: list[Member] = []
    offset = 0
    try:
        while (entry := _read_entry(file, offset)) is not None:
            cut = entry.end > file.size
            if entry.is_file:
                members.append(Member(entry.name, entry.place, 0 if cut else entry.size))
            if cut:
                note = f"ends at byte {file.size}, within '{entry.name}': is it truncated?"
                return Contents(members, entry.place, [note])
            offset = _next_block(entry.end)
    except _DamagedError as error:
        if file.read_at(0, BLOCKSIZE).startswith(_COMPRESSED):
            raise compressed_tar(file.url) from None
        return Contents(members, offset, [f"damaged at byte {offset} ({error}): nothing after it is read"])
    rest = file.size - offset
    if rest < BLOCKSIZE:
        return Contents(members, None, ["has no end mark: is it truncated?"])
    notes = [f"{rest:,} bytes after the end mark at byte {offset} are not read"] if rest > _PADDING else []
    return Contents(members, None, notes)


def _read_entry(file: RangeFile, start: int) -> _Entry | None:
    """Read the headers of the member at an offset; None at the end mark and at the end of the file."""
    offset = start
    place: int | None = None
    long_name = ""
    pax: dict[str, str] = {}
    while True:
        block = file.read_at(offset, BLOCKSIZE)
        if offset == start and not block.strip(b"\0") and (start > 0 or len(block) == BLOCKSIZE):
            return None
        header = _parse(block)
        data = offset + BLOCKSIZE
        if header.kind not in _EXTENSIONS:
            break
        if header.kind in _PAX:
            pax = _pax_records(_extension(file, data, header.size))
            place = offset if any(key.startswith("GNU.sparse.") for key in pax) else None
        elif header.kind == tarfile.GNUTYPE_LONGNAME:
            long_name = _text(_extension(file, data, header.size))
        offset = _next_block(data + header.size)
    if header.kind == tarfile.GNUTYPE_SPARSE:
        data = _skip_sparse_map(file, block, data)
    size = _number(pax["size"]) if "size" in pax else header.size
    is_file = header.kind in tarfile.REGULAR_TYPES
    has_data = is_file or header.kind not in tarfile.SUPPORTED_TYPES
    return _Entry(
        name=safe_path(pax.get("GNU.sparse.name") or pax.get("path") or long_name or header.name),
        is_file=is_file,
        place=offset if place is None else place,
        size=size,
        end=data + size if has_data else data,
    )


def _parse(block: bytes) -> _Header:
    """Parse the block of a header (POSIX.1-1988, ustar); `TarInfo` alone would take four times as long.

    Raises:
        _DamagedError: It is no header.
    """
    try:
        size = int(block[124:136].strip(b"\0 ") or b"0", 8)
        valid = size >= 0 and int(block[148:156].strip(b"\0 "), 8) == sum(block) - sum(block[148:156]) + 8 * ord(" ")
    except ValueError:
        valid = False
    if not valid or len(block) < BLOCKSIZE:  # or one with a size in base 256 or a checksum of signed bytes
        try:
            size = TarInfo.frombuf(block, "utf-8", "backslashreplace").size
        except tarfile.HeaderError as error:
            raise _DamagedError(error) from None
        if size < 0:
            raise _DamagedError("a negative size")
    name, kind = _text(block[:100]), block[156:157]
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    is_folder = kind == tarfile.AREGTYPE and name.endswith("/")  # in archives from before ustar
    return _Header(name, tarfile.DIRTYPE if is_folder else kind, size)


def _next_block(offset: int) -> int:
    return -(-offset // BLOCKSIZE) * BLOCKSIZE


def _extension(file: RangeFile, offset: int, size: int) -> bytes:
    if size > _LARGEST_EXTENSION:
        raise _DamagedError(f"an extended header of {size} bytes")
    data = file.read_at(offset, size)
    if len(data) < size:
        raise _DamagedError("truncated header")
    return data


def _pax_records(data: bytes) -> dict[str, str]:
    """Parse records `LENGTH KEY=VALUE` of a pax header (POSIX.1-2001), each of LENGTH bytes with its line feed."""
    records = {}
    start = 0
    while start < len(data) and data[start]:  # some writers fill the block
        space = data.find(b" ", start, start + 20)
        end = start + _number(_text(data[start:space]))
        if not start < space < end <= len(data):
            raise _DamagedError("a broken pax header")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[_text(key)] = _text(value)
        start = end
    return records


def _number(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise _DamagedError(f"'{text[:20]}' for a number")
    return number


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _skip_sparse_map(file: RangeFile, block: bytes, data: int) -> int:
    """Return the offset of the data of an old GNU sparse file, after the blocks that continue its map."""
    flag = block[_SPARSE_FLAG]
    while flag:
        block = file.read_at(data, BLOCKSIZE)
        if len(block) < BLOCKSIZE:
            raise _DamagedError("truncated header")
        flag = block[_NEXT_SPARSE_FLAG]
        data += BLOCKSIZE
    return data


def read_tar_member(url: str, offset: int, size: int) -> bytes:
    """Read the data of a member in one request.

    Args:
        url: The archive.
        offset: Offset of the member's header.
        size: Size of its data.

    Raises:
        MemberError: There is no such member, or it cannot be read.
    """
    data = storage.read_range(url, offset, offset + BLOCKSIZE + size)
    try:
        header = _parse(data[:BLOCKSIZE])
    except _DamagedError:
        raise no_member(offset) from None
    if header.kind == tarfile.GNUTYPE_SPARSE or (header.kind in _PAX and size > 0):
        raise MemberError("a sparse file, whose holes are not in the archive: pack it without --sparse")
    if header.kind not in tarfile.REGULAR_TYPES:
        raise no_member(offset)
    if header.size != size or len(data) < BLOCKSIZE + size:
        raise MemberError("the archive ends within this member, or has changed since it was listed")
    return data[BLOCKSIZE:]
