"""Memory that one image's arrays leave to the next one's.

To touch what is fresh from the system takes longer than to compute on it: up to a tenth of an image's time.
"""

import threading
from math import prod

import numpy as np
from numpy.typing import DTypeLike, NDArray

MAX_KEPT = 2**26  # bytes of an array
LINE = 64  # bytes of a cache line


class _Kept(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[np.uint8]] = {}


_kept = _Kept()


def scratch(purpose: str, shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray:
    """An array with anything in it, which begins on a cache line. It is the caller's until it or another in the same
    thread asks for the same purpose again: no result of a public function may lie in it."""
    dtype = np.dtype(dtype)
    size = prod(shape) if isinstance(shape, tuple) else shape
    needed = size * dtype.itemsize + LINE
    memory = _kept.arrays.get(purpose)
    if memory is None or len(memory) < needed:
        memory = np.empty(needed, np.uint8)
        if needed <= MAX_KEPT:
            _kept.arrays[purpose] = memory
    start = -memory.ctypes.data % LINE
    return memory[start : start + size * dtype.itemsize].view(dtype).reshape(shape)
