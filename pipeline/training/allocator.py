"""Settings of the C library's memory allocator for processes that compute on CPUs."""

from typing import Any

KEEP_FREED_MEMORY: dict[str, Any] = {
    "env_vars": {
        # A single arena, because only the main arena can hold buffers above 64 MB.
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(2**40),
        "MALLOC_TRIM_THRESHOLD_": str(2**40),
    }
}
"""A Ray runtime environment in which glibc reuses freed memory instead of returning it to the operating system.

Every batch frees buffers of many megabytes and allocates the same sizes again. By default, glibc returns such buffers
at once, and the system clears each page anew; docs/decisions.md says what that costs. Other C libraries ignore these
variables.
"""
