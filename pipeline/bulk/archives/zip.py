"""Zip archives: listing their central directory, and reading a member by the offset of its local header."""

import stat
import struct
import zipfile
import zlib

from pipeline import storage
from pipeline.bulk.archives.member import Contents, Member, MemberError, no_member
from pipeline.bulk.archives.range_file import RangeFile, SeekableFile
from pipeline.data.image_ids import safe_path

# The end records, which lie at the end: up to 64 KiB of comment, 22 bytes, and 76 bytes of Zip64 (APPNOTE 4.3.14-16).
_END = 2**16 + 22 + 76
# Local header (APPNOTE 4.3.7): signature, flags, method, CRC-32, compressed size, lengths of name and extra field.
_HEADER = struct.Struct("<4s2xHH4xII4xHH")
_SIGNATURE, _ENTRY = b"PK\x03\x04", b"PK\x01\x02"
_CLAIM = 1 << 3  # of the flags' second byte: the name is UTF-8
_ENCRYPTED, _SIZES_FOLLOW = 1 << 0, 1 << 3  # flags
_OTHER_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz"}
_SIZE_IN_EXTRA = 0xFFFFFFFF  # Zip64
# Names and extra fields are of unknown length; so much of them is read in the same request as the data.
_SLACK = 1024
# Bytes to which a member may inflate, and to how many for each of its own if these are more than `SMALL`: many members
# are in memory at a time, and deflate alone would allow a thousand.
LARGEST, SMALL, RATIO = 2**30, 2**26, 100


def list_zip(file: RangeFile) -> Contents:
    """List the files of a zip by its central directory, without which none of them can be found."""
    # `zipfile` takes a failure of the store here for a file that is no zip.
    file.read_at(max(0, file.size - _END), _END)
    last = max(0, file.size - 1)  # no header begins there
    try:
        entries = _entries(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        return Contents([], last, [f"its directory cannot be read ({error}): is it truncated?"])
    members = []
    for name, entry in entries:
        if name.endswith("/") or stat.S_ISLNK(entry.external_attr >> 16):
            continue
        start, end = entry.header_offset, entry.header_offset + entry.compress_size
        name = safe_path(name)
        if not 0 <= start <= last:
            members.append(Member(name, last, 0))
        else:
            members.append(Member(name, start, entry.compress_size if end <= file.size else 0))
    return Contents(members, None, [])


def _entries(file: RangeFile) -> list[tuple[str, zipfile.ZipInfo]]:
    r"""Read the central directory with the names; what a name claims to be UTF-8 and is not is written as `\xNN`."""
    try:
        with zipfile.ZipFile(SeekableFile(file)) as archive:
            return [(_slashes(entry.filename), entry) for entry in archive.infolist()]
    except UnicodeDecodeError:
        with zipfile.ZipFile(_WithoutClaims(file)) as archive:
            names = [_slashes(entry.filename).encode("cp437") for entry in archive.infolist()]
            return list(
                zip([name.decode("utf-8", "backslashreplace") for name in names], archive.infolist(), strict=True)
            )


def _slashes(name: str) -> str:
    """Return a name with slashes; some writers on Windows do not follow the standard."""
    return name.replace("\\", "/")


class _WithoutClaims(SeekableFile):
    """A zip whose names do not claim to be UTF-8, so that `zipfile` takes their bytes for code page 437."""

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, or all to the end; the central directory is read at once."""
        data = bytearray(super().read(size))
        start = 0
        while data[start : start + 4] == _ENTRY:  # APPNOTE 4.3.12
            data[start + 9] &= 0xFF ^ _CLAIM
            start += 46 + sum(struct.unpack_from("<HHH", data, start + 28))
        return bytes(data)


def read_zip_member(url: str, offset: int, size: int) -> bytes:
    """Read the data of a member, in one request unless its name and extra fields are very long.

    Args:
        url: The archive.
        offset: Offset of the member's local header.
        size: Size of its data in the archive.

    Raises:
        MemberError: There is no such member, or it cannot be read.
    """
    data = storage.read_range(url, offset, offset + _HEADER.size + _SLACK + size)
    if len(data) < _HEADER.size or not data.startswith(_SIGNATURE):
        raise no_member(offset)
    _, flags, method, crc, compressed, name, extra = _HEADER.unpack_from(data)
    if flags & _ENCRYPTED:
        raise MemberError("this member of the archive is encrypted: pack it without a password")
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        name_of_method = _OTHER_METHODS.get(method, "unknown")
        raise MemberError(
            f"this member is compressed by method {method} ({name_of_method}): pack it stored or deflated"
        )
    start = _HEADER.size + name + extra
    if len(data) < start + size:
        data += storage.read_range(url, offset + len(data), offset + start + size)
    body = data[start : start + size]
    sizes_follow = bool(flags & _SIZES_FOLLOW)
    if len(body) < size or not (sizes_follow or compressed in (size, _SIZE_IN_EXTRA)):
        raise MemberError("the archive ends within this member, or has changed since it was listed")
    if method == zipfile.ZIP_DEFLATED:
        body = _inflate(body)
    if not sizes_follow and zlib.crc32(body) != crc:
        raise MemberError("this member of the archive is damaged: its checksum differs")
    return body


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    most = min(LARGEST, max(SMALL, RATIO * len(data)))
    try:
        inflated = inflater.decompress(data, most + 1)
    except zlib.error as error:
        raise MemberError(f"this member of the archive is damaged ({error})") from None
    if len(inflated) > most:
        raise MemberError(f"this member inflates to more than {most:,} bytes (a decompression bomb?): pack it stored")
    if not inflater.eof:
        raise MemberError("this member of the archive is damaged: its deflated data end early")
    return inflated
