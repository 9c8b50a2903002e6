"""Durations and sizes as people write them: `90m`, `6h`, `30d`, `500GiB`."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"B": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGTP", start=1)
    for suffix, base in (("B", 1000), ("iB", 1024))
}


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `45s`, `90m`, `6h`, `1h30m` or `30d`.

    Raises:
        ValueError: The text is no such duration.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("expected a duration such as 90m, 6h or 30d")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as `500GiB`, `2TB` or `1000000`.

    Raises:
        ValueError: The text is no such size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGTP]?i?B)?", text)
    if match is None or (match[2] or "B") not in _BYTES:
        raise ValueError("expected a size such as 500GiB or 2TB")
    return int(float(match[1]) * _BYTES[match[2] or "B"])


def format_bytes(count: float) -> str:
    """Format a size with the largest binary unit that leaves 1 or more: `3.0 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Format a duration with its two largest units: `45 s`, `12 min`, `3 h 5 min`, `2 d 4 h`."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes_left} min" if minutes_left else f"{hours} h"
    days, hours_left = divmod(round(whole / 3600), 24)
    return f"{days} d {hours_left} h" if hours_left else f"{days} d"


def _read(parse: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


Duration = Annotated[
    float,
    _read(parse_duration),
    Field(gt=0),
    WithJsonSchema({"title": "Duration", "type": ["number", "string"], "examples": ["6h"]}),
]
"""A field of a configuration that holds seconds and is written as `6h`."""

Size = Annotated[
    int,
    _read(parse_bytes),
    Field(ge=0),
    WithJsonSchema({"title": "Size", "type": ["integer", "string"], "examples": ["500GiB"]}),
]
"""A field of a configuration that holds bytes and is written as `500GiB`."""
