"""Signs that a class file does not describe the label maps, and the line of the class file that would."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.classes import MOST_SHOWN, Classes, flow, format_label_value


@dataclass(frozen=True)
class Doubt:
    """A sign that the class file does not describe the label maps.

    Attributes:
        kind: class_never_occurs: other classes do. one_class: not even two classes occur, which no training can use.
            one_value_more: the label maps hold the values 0 to K for K classes.
        what: What is odd, for people.
        remedy: Lines of the class file that would explain the label maps; None if there are no such lines.
    """

    kind: str
    what: str
    remedy: str | None = None


def find_doubts(classes: Classes, *, pixels: Sequence[int], values: Mapping[int, int]) -> list[Doubt]:
    """Compare the classes with what label maps hold.

    Args:
        classes: Content of the class file.
        pixels: Pixels of each class.
        values: Pixels of each stored value.
    """
    if not values:
        return []
    missing = [name for name, count in zip(classes.names, pixels, strict=True) if not count]
    plain = sorted(value for value in values if value >> 24 == 0)  # no colours
    remedy = _remedy(classes, missing, plain)
    found = f"They hold {_describe(classes, values)}."
    if len(classes) - len(missing) < 2:
        names = [name for name in classes.names if name not in missing]
        what = f"the label maps hold no class but '{names[0]}'" if names else "the label maps hold none of the classes"
        return [Doubt("one_class", f"{what}. {found}", remedy)]
    if missing:
        some = ", ".join(f"'{name}'" for name in missing)
        return [Doubt("class_never_occurs", f"no label map holds {some}. {found}", remedy)]
    if classes.values is None and set(plain) - {classes.ignore_index} == set(range(len(classes) + 1)):
        what = f"the label maps hold the values 0 to {len(classes)}, one more than there are classes."
        return [Doubt("one_value_more", what, remedy)]
    return []


def _remedy(classes: Classes, missing: list[str], stored: list[int]) -> str | None:
    """Return the lines of the class file under which each class occurs; None if the values suggest none.

    Args:
        classes: Content of the class file.
        missing: Classes that do not occur.
        stored: Stored values that are no colours, in ascending order.
    """
    names, ignore = classes.names, classes.ignore_index
    count = len(names)
    others = [value for value in stored if value != ignore]
    if count == 1 and len(stored) == 2 and classes.values is None:
        both = ("background", names[0])
        return f"names: {flow(list(both))}\n{_line(dict(zip(stored, both, strict=True)))}"
    if classes.values is None:
        if others == list(range(count + 1)):  # as in ADE20K, where 0 is no class
            return _line({0: "ignore"} | dict(zip(others[1:], names, strict=True)) | _ignored(stored, ignore))
        if not missing:
            return None
        if len(others) == count:
            return _line(dict(zip(others, names, strict=True)) | _ignored(stored, ignore))
        if len(stored) == count:
            return _line(dict(zip(stored, names, strict=True)))
    known = {value: name for value in stored if (name := _name_of(classes, value)) is not None}
    unused = [value for value in stored if value not in known]
    if missing and len(unused) == len(missing):
        return _line(dict(sorted((known | dict(zip(unused, missing, strict=True))).items())))
    return None


def _name_of(classes: Classes, value: int) -> str | None:
    """Return the class of a stored value, or 'ignore' where the class file says so; None for other values."""
    index = int(classes.index(np.array([value], np.int32))[0])
    if 0 <= index < len(classes):
        return classes.names[index]
    return "ignore" if classes.values is not None and index == classes.ignore_index else None


def _ignored(stored: list[int], ignore: int) -> dict[int, str]:
    return {ignore: "ignore"} if ignore in stored else {}


def _line(values: dict[int, str]) -> str:
    return f"values: {flow(values)}"


def _describe(classes: Classes, values: Mapping[int, int]) -> str:
    """Describe the stored values: their shares, and which of them is the ignore index."""
    total = sum(values.values())
    texts = []
    for value, count in sorted(values.items())[:MOST_SHOWN]:
        role = ", the ignore index" if value == classes.ignore_index and classes.values is None else ""
        texts.append(f"{format_label_value(value)} ({count / total:.1%} of the pixels{role})")
    more = f" and {len(values) - MOST_SHOWN} more values" if len(values) > MOST_SHOWN else ""
    return ", ".join(texts) + more


def format_doubt(doubt: Doubt) -> str:
    """Format a doubt as a sentence, with the lines for the class file below it."""
    if doubt.remedy is None:
        return doubt.what
    lines = "".join(f"\n  {line}" for line in doubt.remedy.splitlines())
    return f"{doubt.what} If the values stand for the classes as below, write this into the class file:{lines}"
