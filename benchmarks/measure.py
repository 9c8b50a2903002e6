"""Measurement of the time that a piece of work takes, and of its memory (Linux)."""

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a piece of work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(works: Sequence[Callable[[], Any]], rounds: int) -> tuple[list[float], list[Any]]:
    """Run functions in turn and return their median seconds and their results; a first round warms up."""
    times: list[list[float]] = [[] for _ in works]
    results: list[Any] = [None for _ in works]
    for i in range(rounds + 1):
        for k, work in enumerate(works):
            start = time.perf_counter()
            results[k] = work()
            if i:
                times[k].append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times], results


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
