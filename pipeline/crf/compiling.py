"""Numba's compiler, and a folder for what it compiles that this process can write.

Numba keeps compiled loops beside their source or in the user's home, and refuses to compile if it can write neither, as
in a container that runs as a user without a home.
"""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from numba import config, njit

__all__ = ["njit"]


def _folder() -> Path:
    """Return a folder for temporary files that is this user's alone, because Numba runs what it finds there."""
    folder = Path(tempfile.gettempdir()) / f"segpipe-numba-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
        return folder
    return Path(tempfile.mkdtemp(prefix="segpipe-numba-"))


def _has_folder() -> bool:
    try:
        njit(cache=True)(lambda: None)
    except RuntimeError:  # "no locator available"
        return False
    return True


if not _has_folder():
    config.CACHE_DIR = str(_folder())
