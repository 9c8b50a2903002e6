"""How the C library's memory allocator treats the tensors of a process that computes on CPUs."""

from typing import Any

KEEP_FREED_MEMORY: dict[str, Any] = {
    "env_vars": {
        # One arena: only the main one can hold buffers above 64 MB.
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(2**40),
        "MALLOC_TRIM_THRESHOLD_": str(2**40),
    }
}
"""A Ray runtime environment whose processes use freed memory again before it goes back to the operating system.

Every batch frees buffers of many megabytes and asks for the same again. glibc returns such buffers at once, and the
system clears each page anew; see docs/decisions.md for what that costs. Other C libraries do not know these variables.
"""
