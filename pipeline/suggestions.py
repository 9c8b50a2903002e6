"""What a message proposes in place of a name that does not exist."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str) -> str:
    """Return "did you mean X?" for the known name that is most like `name`, or `otherwise` if none is like it."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else otherwise
