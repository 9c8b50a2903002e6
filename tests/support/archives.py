"""Archives for tests: built in memory, listed and read as a bulk run does it."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from pipeline.bulk.archives.archive import list_archive, read_member
from pipeline.bulk.archives.member import MemberError


def tar_of(members: Mapping[str, bytes], *, kind: int = tarfile.USTAR_FORMAT) -> bytes:
    """Pack files as a tar of a `tarfile` format."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tar_of_infos(*entries: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.GNU_FORMAT) -> bytes:
    """Pack entries whose headers are given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for info, data in entries:
            info.size = info.size or len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(members: Mapping[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
    """Pack files as a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def contents(path: Path, data: bytes) -> tuple[dict[str, bytes | MemberError], list[str]]:
    """Store an archive, and list and read it. The key of its images is the name of the file.

    Returns:
        The bytes of each image, or why it cannot be read, by the id without the key; and the notes.
    """
    path.write_bytes(data)
    images, notes = list_archive(path.name, str(path), len(data))
    assert [image.image_id for image in images] == sorted({image.image_id for image in images})
    found: dict[str, bytes | MemberError] = {}
    for image in images:
        assert image.image_id.startswith(path.name)
        try:
            one: bytes | MemberError = read_member(str(path), image.offset, image.size)
        except MemberError as error:
            one = error
        found[image.image_id.removeprefix(path.name)] = one
    return found, notes
