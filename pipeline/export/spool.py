"""Growing files: they are written on the local disk and copied to storage as a whole."""

import tempfile
from pathlib import Path

from pipeline import storage


class Spool:
    """A text file that grows on the local disk.

    Args:
        url: Where it is stored by `store`.
    """

    def __init__(self, url: str):
        self._url = url
        self._folder = tempfile.TemporaryDirectory(prefix="segpipe-export-")
        self.path = Path(self._folder.name) / "file"
        self._file = self.path.open("w", encoding="utf-8")
        self.is_empty = True

    def write(self, text: str) -> None:
        """Append a text."""
        self._file.write(text)
        self.is_empty = False

    def item(self, text: str) -> None:
        """Append an item of a JSON array, with a comma if it is not the first."""
        self.write(text if self.is_empty else ",\n" + text)

    def extend(self, other: "Spool") -> None:
        """Append the content of another spool."""
        other._file.flush()
        with other.path.open(encoding="utf-8") as file:
            while part := file.read(1 << 20):
                self._file.write(part)

    def store(self) -> None:
        """Copy the file to storage."""
        self._file.flush()
        with storage.friendly_errors(self._url, "cannot write"):
            storage.upload(self.path, self._url)

    def close(self) -> None:
        """Remove the local file."""
        self._file.close()
        self._folder.cleanup()
