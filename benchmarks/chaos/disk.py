"""A small disk that can be filled to the last byte."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE = "64m"
BLOCK = bytes(4096)
FILLER = "filler"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Mount a file system of 64 MiB in memory in a `with` block; None where that is not permitted.

    Args:
        folder: Where to mount it; it is made.
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=True)


def fill(disk: Path) -> None:
    """Use all space of a disk."""
    with (disk / FILLER).open("ab", buffering=0) as file:
        try:
            while True:
                file.write(BLOCK)
        except OSError:  # the disk is full
            return


def clear(disk: Path) -> None:
    """Give the space back that `fill` has taken."""
    (disk / FILLER).unlink(missing_ok=True)
