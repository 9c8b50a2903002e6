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
        values: Stored values that are no class, for a problem about such values.
    """

    kind: str
    where: str
    what: str
    values: tuple[str, ...] = ()


def format_problems(problems: Sequence[Problem], *, show: int, advice: Mapping[str, str] | None = None) -> list[str]:
    """Return a heading for each kind of problem, up to `show` lines below it, and the advice on this kind.

    A line is a problem or, for problems about values, a value with the number of its files.
    """
    lines = []
    for kind, count in Counter(problem.kind for problem in problems).items():
        lines.append(f"\n{kind}: {count}")
        members = [problem for problem in problems if problem.kind == kind]
        found = _by_value(members) or [f"{problem.where}: {problem.what}" for problem in members]
        lines += [f"  {line}" for line in found[:show]]
        if len(found) > show:
            lines.append(f"  … and {len(found) - show} more")
        if advice and kind in advice:
            lines.append(f"  {advice[kind]}")
    return lines


def _by_value(problems: Sequence[Problem]) -> list[str]:
    """Return a line for each value that problems are about, the most frequent first."""
    files: dict[str, list[str]] = {}
    for problem in problems:
        for value in problem.values:
            files.setdefault(value, []).append(problem.where)
    return [
        f"value {value} in {len(places):,} files, for example {places[0]}"
        if len(places) > 1
        else f"value {value} in {places[0]}"
        for value, places in sorted(files.items(), key=lambda item: -len(item[1]))
    ]


def summarise_problems(problems: Sequence[Problem]) -> str:
    """Return the number of problems of each kind, as in "2 unreadable_image, 1 one_class"."""
    kinds = Counter(problem.kind for problem in problems)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no problems"
