"""The hostile corpus: files that users and attackers have, built by code, each with what must become of it."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.support.hostile import bombs, damage, kinds, names
from tests.support.hostile.case import Case

__all__ = ["Case", "contents", "local_cases", "s3_cases", "write_locally", "write_special_files"]


def contents(*, large: bool = False) -> Iterator[Case]:
    """Yield the files that are hostile by their content, also images of many pixels if asked for."""
    for part in (damage.truncated, damage.flipped, damage.wrong_suffixes, damage.no_images):
        yield from part()
    for part in (kinds.modes, kinds.orientations, kinds.profiles, kinds.frames):
        yield from part()
    for part in (bombs.declared, bombs.inflating, *([bombs.large] if large else [])):
        yield from part()


def local_cases() -> list[Case]:
    """Return the corpus as a local disk can hold it."""
    return [*contents(), *names.names(*names.LOCAL_NAMES), *names.not_utf_8()]


def s3_cases() -> list[Case]:
    """Return the corpus as a bucket can hold it."""
    return [*contents(), *names.names(*names.S3_NAMES)]


def write_locally(folder: Path, cases: list[Case]) -> None:
    """Write files below a folder."""
    for case in cases:
        place = folder / case.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(case.data)


def write_special_files(folder: Path) -> dict[str, str]:
    """Add what is no regular file, and return the pattern of each one's message by its name."""
    place = folder / "special"
    place.mkdir()
    special = "a pipe, a socket or a device; replace it by a regular file"
    os.mkfifo(place / "pipe.png")
    here = os.getcwd()
    os.chdir(place)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.png")
    finally:
        os.chdir(here)
    (place / "device.png").symlink_to("/dev/zero")
    (place / "nowhere.png").symlink_to("none.png")
    (place / "itself.png").symlink_to("itself.png")
    (place / "folder.png").mkdir()  # no file, and no row
    with (place / "sparse.png").open("wb") as sparse:
        sparse.truncate(3 * 2**30)
    return {
        "special/pipe.png": special,
        "special/socket.png": special,
        "special/device.png": special,
        "special/nowhere.png": "it does not exist",
        "special/sparse.png": "the file has 3,221,225,472 bytes; images of more than 2,147,483,648 bytes are not read",
        "special/itself.png": "[Ss]ymbolic links",
    }
