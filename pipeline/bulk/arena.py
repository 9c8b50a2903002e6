"""Memory that two processes share for as long as they exchange messages, for the arrays in these.

A file in memory for each message would cost more than copying its arrays: the kernel allocates and clears its pages,
maps them for the receiver, unmaps and frees them. Here the pages stay. The sender takes pieces one after the other,
around the memory, and the receiver marks a piece as free when no array uses it any more.
"""

import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PIECES = 4096  # in use at a time; the memory begins with a byte for each, which is 1 while it is in use
_ALIGNED = 64


class Piece(NamedTuple):
    """A part of the memory that holds the arrays of a message.

    Attributes:
        number: Number of its byte.
        start: Where it begins.
    """

    number: int
    start: int


def create(size: int) -> int | None:
    """Return the descriptor of memory to share, whose pages are allocated when they are first used.

    Args:
        size: Bytes for arrays.

    Returns:
        None where the system has no files in memory.
    """
    if not hasattr(os, "memfd_create"):
        return None
    descriptor = os.memfd_create("segpipe")
    os.ftruncate(descriptor, PIECES + size)
    return descriptor


def attach(descriptor: int) -> NDArray[np.uint8]:
    """Map the memory of a descriptor, which may be closed then."""
    return np.frombuffer(mmap.mmap(descriptor, os.fstat(descriptor).st_size), np.uint8)


class Outbox:
    """The sender's side.

    Args:
        memory: The memory; see `attach`.
    """

    def __init__(self, memory: NDArray[np.uint8]):
        self._memory = memory
        self._used: deque[tuple[Piece, int]] = deque()  # with its end, in the order of taking
        self._count = 0
        self._lock = threading.Lock()

    def put(self, views: Sequence[memoryview]) -> Piece | None:
        """Copy some buffers to a piece, one after the other; None if there is no room for them now."""
        piece = self._take(sum(view.nbytes for view in views))
        if piece is None:
            return None
        start = piece.start
        for view in views:
            end = start + view.nbytes
            np.copyto(self._memory[start:end], np.frombuffer(view, np.uint8))  # lets other threads run
            start = end
        return piece

    def _take(self, size: int) -> Piece | None:
        with self._lock:
            while self._used and not self._memory[self._used[0][0].number]:
                self._used.popleft()
            start = self._place_for(-(-size // _ALIGNED) * _ALIGNED)
            if start is None or len(self._used) == PIECES:
                return None
            piece = Piece(self._count % PIECES, start)
            self._count += 1
            self._memory[piece.number] = 1
            self._used.append((piece, start + -(-size // _ALIGNED) * _ALIGNED))
            return piece

    def _place_for(self, size: int) -> int | None:
        if not self._used:
            return PIECES if PIECES + size <= len(self._memory) else None
        first, end = self._used[0][0].start, self._used[-1][1]
        if end > first:  # the used part does not wrap around
            if end + size <= len(self._memory):
                return end
            end = PIECES
        return end if end + size < first else None


class Inbox:
    """The receiver's side.

    Args:
        memory: The memory; see `attach`.
    """

    def __init__(self, memory: NDArray[np.uint8]):
        self._memory = memory

    def view(self, piece: Piece, size: int) -> memoryview:
        """Return the bytes of a piece, which becomes free when nothing refers to them any more."""
        data = np.frombuffer(self._memory.data, np.uint8, size, piece.start)
        weakref.finalize(data, self._free, piece.number).atexit = False
        return data.data

    def _free(self, number: int) -> None:
        self._memory[number] = 0
