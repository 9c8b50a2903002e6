"""Patience with storage: which failures may pass by themselves, and how long a process waits until they do.

A failure says something either about the file (it does not exist) or about the store (it does not answer, or refuses).
Only the latter is waited for. What the waiting is for decides how long it lasts: a job that begins tells its user of a
mistyped endpoint after some seconds, and a job at work lets the store restart.
"""

import errno
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from pipeline.errors import ImageFault, IncompleteError, SpecialFileError, UserError

PATIENCE = 120.0  # seconds that a job at work waits for a store
FIRST_WAIT, LONGEST_WAIT = 0.2, 10.0  # seconds between two attempts; each wait is twice as long as the one before

Result = TypeVar("Result")


class StoreFault(IncompleteError):
    """A store failed for longer than this process waits for it."""


class Fault(Enum):
    """What a failure to read or write a file says."""

    FILE = "the file is not there, or is no such file"
    REFUSAL = "the store refuses: wrong or expired credentials, no room, no such bucket"
    STORE = "the store fails: it cannot be reached, is overloaded, or sends too little"


_OF_THE_FILE = (
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    FileExistsError,
    SpecialFileError,
    UserError,
    ImageFault,
)
_ERRNO_OF_THE_FILE = {errno.ENAMETOOLONG, errno.ELOOP}
_ERRNO_REFUSAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EINVAL, errno.EPERM}
_REFUSALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}
_NOT_STORES = {"builtins", "pyarrow", "pipeline", "PIL", "numpy"}  # packages whose other errors no store has raised


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


def fault_of(error: BaseException) -> Fault:
    """Decide what a failure to read or write a file says."""
    text = str(error)
    if isinstance(error, FileNotFoundError) and "bucket" in text and "does not exist" in text:
        return Fault.REFUSAL
    if isinstance(error, _OF_THE_FILE):
        return Fault.FILE
    if isinstance(error, OSError):
        if error.errno in _ERRNO_OF_THE_FILE or (isinstance(error, PermissionError) and error.filename is not None):
            return Fault.FILE  # the operating system names the file that it refuses; an object store does not
        refused = isinstance(error, PermissionError) or error.errno in _ERRNO_REFUSAL
        return Fault.REFUSAL if refused else Fault.STORE
    kind, status = type(error), getattr(error, "status", 0)  # status: that of HTTP, in aiohttp's errors
    if kind.__name__ in _REFUSALS or status in (401, 403):
        return Fault.REFUSAL
    if 400 <= status < 500 and status not in (408, 425, 429):
        return Fault.FILE
    if isinstance(error, ValueError) or kind.__name__ == "ParamValidationError":
        return Fault.FILE  # no store was asked
    return Fault.FILE if kind.__module__.partition(".")[0] in _NOT_STORES else Fault.STORE


def _store(url: str) -> str:
    protocol, separator, rest = url.partition("://")
    return protocol + separator + rest.partition("/")[0] if separator else "file"


@contextmanager
def store_faults(url: str) -> Iterator[None]:
    """Turn a failure of a store into a `StoreFault` that names the file and says how to go on."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StoreFault) or fault_of(error) is Fault.FILE:
            raise
        from pipeline.storage import explain, redact

        raise StoreFault(f"{redact(url)}: {explain(error)}") from None
