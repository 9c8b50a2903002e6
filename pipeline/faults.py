"""What a failure to read or write a file says: about the file, which does not exist, or about the store."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from pipeline.errors import ImageFault, IncompleteError, SpecialFileError, UserError
from pipeline.secrets import redact, without_secrets


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


def explain(error: BaseException) -> str:
    """Say in one line why a store failed."""
    kind = type(error).__name__
    text = without_secrets(" ".join(str(error).split()))
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    if isinstance(error, SpecialFileError):
        return text
    if kind in ("NoCredentialsError", "PartialCredentialsError"):
        return "no AWS credentials found (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
    if isinstance(error, PermissionError):
        return f"access denied ({text})"
    if kind in ("EndpointConnectionError", "ConnectTimeoutError", "ConnectionRefusedError"):
        return f"cannot reach the store ({text}); is AWS_ENDPOINT_URL right?"
    return f"{kind}: {text}" if text else kind


@contextmanager
def store_faults(url: str) -> Iterator[None]:
    """Turn a failure of a store into a `StoreFault` that names the file and says how to go on."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StoreFault) or fault_of(error) is Fault.FILE:
            raise
        raise StoreFault(f"{redact(url)}: {explain(error)}") from None
