"""Problems of a data set, for people and scripts. Imports no PyTorch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A problem of a data set.

    Attributes:
        kind: Kind of the problem, for scripts.
        where: Key or URL.
        what: What is wrong, for people.
    """

    kind: str
    where: str
    what: str


def format_problems(problems: Sequence[Problem], *, show: int, advice: Mapping[str, str] | None = None) -> list[str]:
    """Return a heading for each kind of problem, up to `show` problems below it, and the advice on this kind."""
    lines = []
    for kind, count in Counter(problem.kind for problem in problems).items():
        lines.append(f"\n{kind}: {count}")
        members = [problem for problem in problems if problem.kind == kind]
        lines += [f"  {problem.where}: {problem.what}" for problem in members[:show]]
        if count > show:
            lines.append(f"  … and {count - show} more")
        if advice and kind in advice:
            lines.append(f"  {advice[kind]}")
    return lines


def summarise_problems(problems: Sequence[Problem]) -> str:
    """Return the number of problems of each kind, as in "2 unreadable_image, 1 one_class"."""
    kinds = Counter(problem.kind for problem in problems)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no problems"
