"""Stopping a driver before its run is done: by SIGTERM, or by a thread that finds a reason."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.errors import IncompleteError

_BY_SIGTERM = "stopped by SIGTERM"
_reasons: list[str] = []


@contextmanager
def stoppable(progress: Callable[[], str]) -> Iterator[None]:
    """Let SIGTERM and `stop` end the block.

    Args:
        progress: Describes for the message how far the run has come.

    Raises:
        IncompleteError: The block was stopped.
    """
    _reasons.clear()
    before = signal.getsignal(signal.SIGTERM)
    stop_on_sigterm()
    try:
        yield
    except BaseException as error:  # the interrupt, or what a library has made of it
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:  # by Ray's own handler, while Ray starts
            _reasons.append(_BY_SIGTERM)
        if not _reasons:
            raise
        raise IncompleteError(f"{_reasons[0]}: {progress()}; the same command resumes the run") from None
    finally:
        if _in_main_thread():
            signal.signal(signal.SIGTERM, before)


def stop_on_sigterm() -> None:
    """Let SIGTERM interrupt the main thread; called again after Ray has set its own handler.

    Ray lets only a `KeyboardInterrupt` through when a signal arrives, so the handler raises that. Nothing is done in
    another thread, where Python allows no handlers.
    """
    if _in_main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def stop(reason: str) -> None:
    """End the block of `stoppable` with this reason; called from any thread."""
    _reasons.append(reason)
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupt(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is under way
    if not _reasons:
        _reasons.append(_BY_SIGTERM)
    raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
