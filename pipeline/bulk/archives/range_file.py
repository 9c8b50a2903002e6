"""A stored file of which some parts are read, each by a range request."""

import io

from pipeline import storage

SMALLEST = 16 * 2**10
LARGEST = 4 * 2**20
# An object store needs some 20 ms for a request, in which it transfers 1 MiB of another: smaller gaps are read through.
NEAR = 2**20


class RangeFile:
    """A file that is read at places, mostly in ascending order. It keeps the range that it has read last.

    A range is small if it lies far from the one before, and twice as large as that if it lies near.

    Args:
        url: The file.
        size: Its size in bytes.
    """

    def __init__(self, url: str, size: int):
        self.url = url
        self.size = size
        self._near = SMALLEST if storage.is_local(url) else NEAR
        self._block = SMALLEST // 2
        self._start = 0
        self._data = b""

    def read_at(self, start: int, length: int) -> bytes:
        """Read `length` bytes, or fewer if the file ends before."""
        end = min(start + length, self.size)
        if end <= start:
            return b""
        if start < self._start or end > self._start + len(self._data):
            self._fetch(start, end)
        return self._data[start - self._start : end - self._start]

    def _fetch(self, start: int, end: int) -> None:
        gap = start - self._start - len(self._data)
        self._block = min(2 * self._block, LARGEST) if 0 <= gap <= self._near else SMALLEST
        self._data = storage.read_range(self.url, start, min(max(end, start + self._block), self.size))
        self._start = start


class SeekableFile(io.RawIOBase):
    """A `RangeFile` with the interface that `zipfile` reads."""

    def __init__(self, file: RangeFile):
        super().__init__()
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise OSError("a position before the start of the file")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, or all to the end."""
        data = self._file.read_at(self._position, self._file.size if size < 0 else size)
        self._position += len(data)
        return data
