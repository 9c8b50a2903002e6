"""The driver of a run as others see it, by the lease that it renews: whether one is at work, and where."""

from datetime import UTC, datetime
from typing import Any

from pipeline import storage
from pipeline.bulk.catalogue import RUN_FOLDER, read_json

LEASE = f"{RUN_FOLDER}/lease.json"
STALE_SECONDS = 90.0  # without renewal


def read_lease(run: str) -> dict[str, Any] | None:
    """Read the lease of a run: `owner`, `host`, `pid` and `time`; None if no driver holds or held one."""
    return read_json(storage.join(run, LEASE))


def age_of(lease: dict[str, Any]) -> float:
    """Return the seconds since a lease was renewed."""
    time = datetime.fromisoformat(lease["time"])
    return (datetime.now(UTC) - (time if time.tzinfo else time.replace(tzinfo=UTC))).total_seconds()


def is_live(lease: dict[str, Any] | None) -> bool:
    """Tell whether a driver is at work, by its lease."""
    return lease is not None and age_of(lease) < STALE_SECONDS
