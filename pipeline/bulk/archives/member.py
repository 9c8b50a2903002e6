"""The members of an archive, as `tar.py` and `zip.py` find them."""

from typing import NamedTuple

from pipeline.errors import ImageFault


class MemberError(ImageFault):
    """A member of an archive cannot be read; the message gives the reason."""


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
        name: Path in the archive; see `image_ids.safe_path`.
        offset: Byte offset of its header.
        size: Bytes of its data in the archive; 0 also where the archive ends before them.
    """

    name: str
    offset: int
    size: int


class Contents(NamedTuple):
    """The files in an archive, without links and folders.

    Attributes:
        members: Files, in the order of the archive.
        damage: Byte offset from which on the archive cannot be listed; None if it can. Reading a member there fails.
        notes: What a user should know about the archive, a line each.
    """

    members: list[Member]
    damage: int | None
    notes: list[str]


def no_member(offset: int) -> MemberError:
    """Return the error of an offset at which no member begins."""
    return MemberError(
        f"no member begins at byte {offset} of the archive: it is damaged, or has changed since it was listed"
    )
