"""Errors that a user can act on, and the text of any error in one line."""

import errno
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.secrets import without_secrets

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """A mistake in the input; the message names what is wrong with which file or option, and what to do.

    Attributes:
        exit_code: Exit code of a job that ends with this error.
    """

    exit_code = 2


class IncompleteError(UserError):
    """A run stopped before its end without a mistake in its input; the message says why, and the command resumes it."""

    exit_code = 3


class TooManyErrors(UserError):
    """More images failed than the run's owner accepts."""

    exit_code = 4


class ImageFault(ValueError):
    """A fault of a single image; the message is a whole sentence that fits into the image's error row."""


class SpecialFileError(OSError):
    """A local file is a pipe, a socket or a device: reading it might never end."""


def one_line(error: BaseException, *, limit: int = 200) -> str:
    """Return the message of an error as a single line of at most `limit` characters, without secrets in URLs."""
    return without_secrets(" ".join(str(error).split()))[:limit]


def first_problem(error: "ValidationError") -> str:
    """Return the first problem that pydantic found, as `field: message`, or `message` where it concerns all fields."""
    problem = error.errors()[0]
    field = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message


def find_user_error(error: BaseException) -> UserError | None:
    """Return the `UserError` inside an exception that Ray has wrapped, or None.

    A full disk has one of its own, and so has a failure of Ray itself, as when a machine or a process is lost.

    Ray raises a subclass of both its own error and the task's, with its traceback in front of the message, so the
    innermost plain `UserError` is the one to show. Pickling drops the cause of an error that was raised in a worker;
    then only the text of the traceback names it.
    """
    chain = list(_chain(error, set()))
    plain = [e for e in chain if isinstance(e, UserError) and type(e).__module__ == __name__]
    if plain:
        return plain[-1]
    quoted = [match for e in chain for match in _IN_TRACEBACK.findall(str(e))]
    if quoted:
        name, message = quoted[-1]
        return _BY_NAME[name](message)
    wrapped = [e for e in chain if isinstance(e, UserError)]
    if wrapped:
        return wrapped[-1]
    full = [e for e in chain if _DISK_IS_FULL in str(e)]
    if full:
        return IncompleteError(f"{_full_disk(full[-1])}; make room, and the same command goes on")
    if all(_is_rays_own(e) for e in chain):
        return IncompleteError(
            f"Ray has failed ({type(error).__name__}: {one_line(error)}); run the same command again"
        )
    return None


def _is_rays_own(error: BaseException) -> bool:
    """Return whether an error tells what happened to Ray, and not what a task or the constructor of an actor raised.

    A RaySystemError may be about this program, as when an object cannot be unpickled.
    """
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "ray.exceptions"}
    return "RayError" in names and not names & {"RayTaskError", "RaySystemError"} and "creation task" not in str(error)


_DISK_IS_FULL = f"[Errno {errno.ENOSPC}]"


def _full_disk(error: BaseException) -> str:
    """Return what a full disk has to do with which file, as far as the error knows it."""
    path = getattr(error, "filename", None)
    return f"no space is left for {path}" if path else "no space is left on a disk that the job writes to"


_BY_NAME = {kind.__name__: kind for kind in (UserError, IncompleteError, TooManyErrors)}
_IN_TRACEBACK = re.compile(rf"^(?:.*\s)?pipeline\.errors\.({'|'.join(_BY_NAME)}): (.+)$", re.MULTILINE)


def _chain(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    nested = [error.__cause__, error.__context__, getattr(error, "cause", None)]
    nested += list(getattr(error, "worker_failures", {}).values())  # Ray Train keeps one per rank
    nested.append(getattr(error, "controller_failure", None))
    for inner in nested:
        if isinstance(inner, BaseException):
            yield from _chain(inner, seen)
