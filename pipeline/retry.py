"""Patience with storage: how long a process waits until a failure passes by itself.

Only failures of the store are waited for (`faults`). What the waiting is for decides how long it lasts: a job that
begins tells its user of a mistyped endpoint after some seconds, and a job at work lets the store restart.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.faults import Fault, fault_of

PATIENCE = 120.0  # seconds that a job at work waits for a store
FIRST_WAIT, LONGEST_WAIT = 0.2, 10.0  # seconds between two attempts; each wait is twice as long as the one before

Result = TypeVar("Result")


@dataclass
class _Patience:
    seconds: float = 10.0
    refusals: bool = False


_patience = _Patience()
_failing_since: dict[str, float] = {}  # store -> time of its first failure after its last success


def be_patient(seconds: float) -> None:
    """Let this process wait for stores as a job at work does: so many seconds, and if they refuse, too."""
    _patience.seconds = seconds
    _patience.refusals = True


def patiently(call: Callable[[], Result], url: str) -> Result:
    """Return what a call returns, repeated while the store fails and this process waits for it.

    Once a store has failed at everything for so long, the next call is not repeated.

    Args:
        call: Reads or writes a file; it may be called again after a failure.
        url: The file.

    Raises:
        Exception: What the last call raised.
    """
    store = _store(url)
    started = time.monotonic()
    wait = FIRST_WAIT
    while True:
        try:
            result = call()
        except Exception as error:
            fault = fault_of(error)
            if fault is Fault.FILE or (fault is Fault.REFUSAL and not _patience.refusals):
                raise
            now = time.monotonic()
            since = min(started, _failing_since.setdefault(store, now))
            if now + wait - since > _patience.seconds:
                raise
            time.sleep(wait * random.uniform(0.5, 1))  # so that a thousand workers do not come back at once
            wait = min(2 * wait, LONGEST_WAIT)
        else:
            _failing_since.pop(store, None)
            return result


def _store(url: str) -> str:
    protocol, separator, rest = url.partition("://")
    return protocol + separator + rest.partition("/")[0] if separator else "file"
