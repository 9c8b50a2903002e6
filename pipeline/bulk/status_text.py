"""The status of a run as text for people and as JSON for programs."""

import json
import math
from dataclasses import asdict
from datetime import UTC, datetime

from pipeline.bulk.driver import age_of
from pipeline.bulk.status import Status
from pipeline.units import format_duration


def to_json(status: Status) -> str:
    """Return a status as one line of JSON."""
    return json.dumps(asdict(status))


def format_status(status: Status, *, causes: int) -> str:
    """Format a status for people.

    Args:
        status: Status of a run.
        causes: Largest number of causes of errors.
    """
    share = f" ({math.floor(1000 * status.written / status.images) / 10:g}%)" if status.images else ""
    lines = [
        f"{status.run}: {status.written:,} of {status.images:,} images{share}, "
        f"{status.shards_written:,} of {status.shards:,} shards",
        f"state:   {_state(status)}",
    ]
    if status.images_per_second:
        lines.append(f"speed:   {status.images_per_second:,.1f} images/s at last{_left(status)}")
    if status.earlier:
        removed = "" if status.removed is None else f"; {status.removed:,} of its images are no longer in the input"
        lines.append(f"earlier: {status.earlier}{removed}")
    lines.append(f"errors:  {status.errors:,}")
    lines += [
        f"  {cause['count']:>8,}  {cause['stage']} {cause['class']}, such as {cause['example']}"
        for cause in status.causes[:causes]
    ]
    if len(status.causes) > causes:
        lines.append(f"  … and {len(status.causes) - causes} more causes")
    return "\n".join([*lines, f"next:    {status.next}"])


def _state(status: Status) -> str:
    if status.finished:
        return f"finished at {status.finished}"
    text: str = status.state
    if status.driver:
        driver = f"{status.driver.get('host')}, process {status.driver.get('pid')}"
        text += f"; the driver ({driver}) was last seen {format_duration(age_of(status.driver))} ago"
    elif status.state == "stopped":
        text += "; no driver is at work"
    if status.last_written:
        ago = datetime.now(UTC) - datetime.fromisoformat(status.last_written)
        text += f"; rows were last written {format_duration(max(0.0, ago.total_seconds()))} ago"
    return text


def _left(status: Status) -> str:
    if status.seconds_left is None:
        return ""
    return f"; about {format_duration(status.seconds_left)} of work left"
