"""Python processes that import what this one imports.

Python and Ray put the current directory before all others in which a process looks for packages. A directory in which
people work on pictures often has a `pipeline` of its own.
"""

import os
import sys
from collections.abc import Iterable


def command(code: str, *arguments: str) -> list[str]:
    """Return the command that runs some code; it needs `environment`."""
    return [sys.executable, "-P", "-c", code, *arguments]


def environment() -> dict[str, str]:
    """Return environment variables with which Python looks for packages where this process does."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(_search_path())}


class SearchPath(list[str]):
    """A list of directories that takes only those in which this process looks for packages."""

    def extend(self, directories: Iterable[str]) -> None:
        """Take the directories that this process has, too."""
        own = {os.path.realpath(directory) for directory in _search_path()}
        super().extend(directory for directory in directories if os.path.realpath(directory) in own)


def _search_path() -> list[str]:
    return [directory or os.getcwd() for directory in sys.path]
