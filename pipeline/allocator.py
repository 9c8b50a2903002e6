"""Settings of the C library's memory allocator, for processes that compute on CPUs.

Every batch frees buffers of many megabytes and allocates the same sizes again. By default, glibc returns such buffers
to the operating system at once, which then clears each page anew; docs/decisions.md says what that costs. Other C
libraries ignore these settings.
"""

from collections.abc import Mapping

BATCH_BYTES = 2**30  # about what the largest batches of bulk runs free on a CPU
PICTURE_BYTES = 2**28  # what decoding a picture of 36 megapixels frees
UNLIMITED = 2**40

_FIXED = {
    # A single arena, because only the main arena can hold buffers above 64 MB.
    "MALLOC_ARENA_MAX": "1",
    # No buffer is a mapping of its own, which would go when it is freed. (mallopt(3) allows no higher threshold than
    # 32 MB for that, though some versions take one.)
    "MALLOC_MMAP_MAX_": "0",
}
_TRIM = "MALLOC_TRIM_THRESHOLD_"


def keep_freed(most: int) -> dict[str, str]:
    """Return environment variables with which a process keeps the memory that it has freed for what it allocates next.

    Args:
        most: Bytes that it keeps; what is free beyond that goes back to the system.
    """
    return _FIXED | {_TRIM: str(most)}


def without(environment: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables without these settings, for a process that should return what it has freed."""
    if any(environment.get(name) != value for name, value in _FIXED.items()):
        return dict(environment)
    return {name: value for name, value in environment.items() if name not in _FIXED and name != _TRIM}
