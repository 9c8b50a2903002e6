"""The runs below an output folder, read from storage."""

import json
import posixpath
from datetime import UTC, datetime
from typing import Any

from pipeline import storage
from pipeline.threads import in_order

PREFIX = "run_id="


def run_folders(output: str) -> list[str]:
    """Return the URLs of the folders named `run_id=…` below an output folder, by name; none if it does not exist.

    Raises:
        UserError: The folder cannot be listed.
    """
    fs, path = storage.filesystem(output)
    with storage.friendly_errors(output, "cannot list"):
        try:
            entries = fs.ls(path, detail=True)
        except FileNotFoundError:
            return []
    names = [posixpath.basename(entry["name"].rstrip("/")) for entry in entries if entry["type"] == "directory"]
    return [storage.join(output, name) for name in sorted(names) if name.startswith(PREFIX)]


def read_json(url: str) -> dict[str, Any] | None:
    """Read a JSON file of a run; None if it does not exist.

    Raises:
        UserError: It cannot be read.
    """
    with storage.friendly_errors(url, "cannot read"):
        try:
            return json.loads(storage.read_bytes(url))
        except FileNotFoundError:
            return None


def read_each(runs: list[str], path: str) -> dict[str, dict[str, Any]]:
    """Read the JSON file at a path below each of some runs, in parallel; runs without the file are left out."""
    found = in_order(read_json, [storage.join(run, path) for run in runs])
    return {run: content for run, content in zip(runs, found, strict=True) if content is not None}


def written_at(file: storage.StoredFile) -> datetime | None:
    """Return when a file was written, by the clock of its store; None if the store keeps no time."""
    try:
        return datetime.fromtimestamp(float(file.mtime), UTC)
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(file.mtime)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
