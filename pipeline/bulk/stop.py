"""Stopping a driver before its run is done: by SIGTERM, or by a thread that finds a reason."""

import os
import signal
from typing import Any

from pipeline.errors import IncompleteError

_DEFAULT = "stopped by SIGTERM"
_reasons: list[str] = []


def stop_on_sigterm() -> None:
    """Let SIGTERM raise an `IncompleteError` in the main thread; called again after Ray has set its own handler."""
    signal.signal(signal.SIGTERM, _raise)


def stop(reason: str) -> None:
    """Raise an `IncompleteError` with this reason in the main thread; called from any thread."""
    _reasons.append(reason)
    os.kill(os.getpid(), signal.SIGTERM)


def _raise(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is under way
    raise IncompleteError(_reasons[0] if _reasons else _DEFAULT)
