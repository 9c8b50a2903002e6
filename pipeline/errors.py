"""The error that is the user's to mend, told in one line instead of a stack trace."""

import re
from collections.abc import Iterator


class UserError(Exception):
    """Something that the user gave is wrong; the message names it, what is wrong with it, and what to do."""


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


_IN_TRACEBACK = re.compile(r"^(?:.*\s)?pipeline\.errors\.UserError: (.+)$", re.MULTILINE)


def find_user_error(error: BaseException) -> UserError | None:
    """The `UserError` within an exception that Ray has wrapped, or None.

    Ray raises a subclass made of its own and the task's class, so the message has Ray's traceback in front:
    the innermost plain `UserError` is the one to show. Where one error caused another in a worker, pickling has
    dropped the cause, and only the traceback's text still tells of it.
    """
    chain = list(_chain(error, set()))
    plain = [e for e in chain if type(e) is UserError]
    if plain:
        return plain[-1]
    told = [match for e in chain for match in _IN_TRACEBACK.findall(str(e))]
    if told:
        return UserError(told[-1])
    wrapped = [e for e in chain if isinstance(e, UserError)]
    return wrapped[-1] if wrapped else None
