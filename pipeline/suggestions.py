"""What a message proposes in place of a name that does not exist."""

import difflib
from collections.abc import Iterable


def closest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most like `name`; empty if none is like it."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), "")


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str) -> str:
    """Return "did you mean X?" for the known name that is most like `name`, or `otherwise` if none is like it."""
    close = closest(name, known)
    return f"did you mean {close}?" if close else otherwise
