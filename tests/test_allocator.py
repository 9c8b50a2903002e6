"""How much memory a process keeps that it has freed, with the settings of `allocator` and without."""

import os
import platform
import subprocess
import sys

import pytest

from pipeline import allocator

MEGABYTE = 2**20

# A thread frees 200 MB, as a predictor does in the threads that compute batches. malloc itself, because libraries
# such as NumPy and PyTorch have their own ways to it.
FREEING = """
import ctypes, threading, os
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
def free():
    before = resident()
    blocks = [libc.malloc(100 * 2**20) for _ in range(2)]
    for block in blocks:
        ctypes.memset(block, 1, 100 * 2**20)
    for block in blocks:
        libc.free(block)
    print(resident() - before)
thread = threading.Thread(target=free)
thread.start()
thread.join()
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")


def kept(environment: dict[str, str]) -> int:
    """Bytes of the 200 MB that a process with these environment variables keeps."""
    return int(subprocess.check_output([sys.executable, "-c", FREEING], env=environment, text=True))


def test_freed_memory_is_kept():
    assert kept(os.environ | allocator.keep_freed(allocator.UNLIMITED)) > 190 * MEGABYTE


def test_it_is_kept_up_to_a_limit():
    assert kept(os.environ | allocator.keep_freed(2**28)) > 190 * MEGABYTE
    assert kept(os.environ | allocator.keep_freed(2**26)) < 80 * MEGABYTE


def test_a_process_without_the_settings_returns_it():
    assert kept(allocator.without(os.environ | allocator.keep_freed(allocator.UNLIMITED))) < 10 * MEGABYTE


def test_settings_of_the_user_stay():
    environment = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": "1000000", "HOME": "/"}
    assert allocator.without(environment) == environment
