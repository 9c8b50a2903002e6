"""Working memory that is reused from one image to the next.

Touching memory that is fresh from the operating system can take a tenth of an image's time.
"""

import threading
from math import prod

import numpy as np
from numpy.typing import DTypeLike, NDArray

MAX_KEPT_BYTES = 2**26  # per array; larger ones are not kept
CACHE_LINE_BYTES = 64


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.by_purpose: dict[str, NDArray[np.uint8]] = {}


_buffers = _Buffers()


def scratch(purpose: str, shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray:
    """Return an uninitialised array that begins on a cache line.

    The next call for the same purpose in the same thread may return the same memory, so no result of a public function
    may lie in it.
    """
    dtype = np.dtype(dtype)
    size = prod(shape) if isinstance(shape, tuple) else shape
    needed = size * dtype.itemsize + CACHE_LINE_BYTES
    memory = _buffers.by_purpose.get(purpose)
    if memory is None or len(memory) < needed:
        memory = np.empty(needed, np.uint8)
        if needed <= MAX_KEPT_BYTES:
            _buffers.by_purpose[purpose] = memory
    start = -memory.ctypes.data % CACHE_LINE_BYTES
    return memory[start : start + size * dtype.itemsize].view(dtype).reshape(shape)


def kept_buffers() -> list[NDArray[np.uint8]]:
    """Return the memory that the calling thread keeps for its next image."""
    return list(_buffers.by_purpose.values())
