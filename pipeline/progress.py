"""Progress of long work on standard error: a bar on a terminal, JSON lines elsewhere.

A line elsewhere is `{"done": …, "total": …, "failed": …, "images_per_second": …, "seconds_left": …}`, or
`{"waiting_for": …}` before anything is done.
"""

import json
import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tqdm import tqdm

EVERY = 10.0  # seconds between two lines


class Progress:
    """Shows how far some work is while its `with` block is executed.

    Args:
        total: Units of work; None if not known.
        unit: What is counted.
        title: What is done, if it is not the main work of the process.
        waiting_for: What is waited for before the first unit.
        delay: Seconds for which nothing is shown; work that ends before shows nothing at all.
    """

    def __init__(
        self,
        *,
        total: int | None = None,
        unit: str = "images",
        title: str | None = None,
        waiting_for: str | None = None,
        delay: float = 0.0,
    ):
        self.done = 0
        self._counts = {"failed": 0, "undone": 0}
        self._total = total
        self._unit = unit
        self._title = title
        self._waiting_for = waiting_for
        self._delay = delay
        self._waits = ExitStack()
        self._bar: tqdm | None = None
        self._began = self._last = time.monotonic()
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> "Progress":
        self._began = self._last = time.monotonic()
        if self._waiting_for is not None:
            self._waits.enter_context(waiting(self._waiting_for))
        else:
            self._open()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._waits.close()
        if self._bar is not None:
            self._bar.close()
        elif kind is None and not is_terminal() and time.monotonic() - self._began >= self._delay:
            self._line(is_last=True)

    def update(self, count: int = 0, *, failed: int = 0, undone: int = 0) -> None:
        """Add to the units that are done, to those of them that failed, and to those that are left undone."""
        self._waits.close()
        self._open()
        self.done += count
        self._counts["failed"] += failed
        self._counts["undone"] += undone
        now = time.monotonic()
        self._first = self._first or (now, self.done)
        if self._bar is not None:
            self._bar.set_postfix({name: n for name, n in self._counts.items() if n}, refresh=False)
            self._bar.update(count)
        elif now - self._last >= max(EVERY, self._delay) and self.done != self._total:  # the last line comes anyway
            self._line()

    def write(self, text: str) -> None:
        """Print a line beside the bar."""
        self._waits.close()
        tqdm.write(text, file=sys.stderr)

    def _open(self) -> None:
        if self._bar is None and is_terminal():
            self._bar = tqdm(
                total=self._total,
                unit=self._unit,
                desc=self._title,
                leave=self._title is None,
                delay=self._delay,
                mininterval=0.2,
                dynamic_ncols=True,
            )

    def _line(self, *, is_last: bool = False) -> None:
        """Write a line; its rate leaves out the time that was waited, if more than the first units are done."""
        self._last = time.monotonic()
        # Units that come all at once say nothing about the speed.
        is_under_way = self._first is not None and self._first[1] < self.done and self._last - self._first[0] >= 1
        began, before = self._first if self._first is not None and is_under_way else (self._began, 0)
        rate = (self.done - before) / max(1e-9, self._last - began)
        if self._waiting_for is not None and not is_under_way and not is_last:
            rate = math.nan
        left = None if self._total is None or not rate > 0 else round((self._total - self.done) / rate)
        stage = {} if self._title is None else {"stage": self._title}
        counts = {name: n for name, n in self._counts.items() if n or name == "failed"}
        write_line(stage | progress_fields(self.done, self._total, rate, left, unit=self._unit, counts=counts))


def progress_fields(
    done: int, total: int | None, rate: float, left: float | None, *, unit: str, counts: dict[str, int]
) -> dict[str, Any]:
    """Return the fields of a line; a rate or time that is not known is None."""
    per_second = f"{unit}_per_second"
    return {"done": done, "total": total, **counts, per_second: _rounded(rate), "seconds_left": left}


def _rounded(rate: float) -> float | None:
    return float(f"{rate:.3g}") if math.isfinite(rate) else None


def write_line(fields: dict[str, Any]) -> None:
    """Print a JSON object in a line on standard error."""
    print(json.dumps(fields, ensure_ascii=False), file=sys.stderr, flush=True)


def is_terminal() -> bool:
    """Tell whether standard error is a terminal."""
    return sys.stderr.isatty()


# --- waiting

_lock = threading.Lock()
_waits: list[tuple[str, float]] = []  # what is waited for and since when, the innermost last
_painter: threading.Thread | None = None


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say what is waited for while the block is executed: with the time on a terminal, as a JSON line elsewhere."""
    global _painter
    if not is_terminal():
        write_line({"waiting_for": what})
        yield
        return
    entry = (what, time.monotonic())
    with _lock:
        _waits.append(entry)
        if _painter is None:
            _painter = threading.Thread(target=_paint, daemon=True)
            _painter.start()
    try:
        yield
    finally:
        with _lock:
            _waits.remove(entry)
            _erase()


def _paint() -> None:
    global _painter
    while True:
        with _lock:
            if not _waits:
                _painter = None
                return
            if not getattr(tqdm, "_instances", None):  # a bar of what is waited for says more
                what, since = _waits[-1]
                _erase(f"waiting for {what} … {time.monotonic() - since:.0f} s")
        time.sleep(0.25)


def _erase(text: str = "") -> None:
    """Replace the current line of the terminal."""
    print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
