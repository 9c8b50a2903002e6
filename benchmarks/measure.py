"""Measurement of the time that a piece of work takes, and of its memory (Linux)."""

import time
from collections.abc import Callable
from pathlib import Path


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_growth(work: Callable[[], object]) -> int:
    """Return the bytes of memory that a piece of work adds at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _read_status("VmRSS")
    work()
    return _read_status("VmHWM") - before


def _read_status(field: str) -> int:
    """Return a field of the process's status in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])
