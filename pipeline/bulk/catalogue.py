"""The runs below an output folder, read from storage, and what a message says about a folder that is no run."""

import json
import posixpath
from datetime import UTC, datetime
from typing import Any

from pipeline import storage
from pipeline.threads import in_order

PREFIX = "run_id="
RUN_FOLDER = "_run"
CONFIG = f"{RUN_FOLDER}/config.json"  # written when the plan is complete
MANIFEST = "manifest.json"  # written when the run is finished
MOST_NAMED = 5  # runs in a message


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
        except (FileNotFoundError, NotADirectoryError):
            return None


def read_each(runs: list[str], path: str) -> dict[str, dict[str, Any]]:
    """Read the JSON file at a path below each of some runs, in parallel; runs without the file are left out."""
    found = in_order(read_json, [storage.join(run, path) for run in runs])
    return {run: content for run, content in zip(runs, found, strict=True) if content is not None}


def name_of(run: str) -> str:
    """Return the name of a run, given its folder."""
    return posixpath.basename(run.rstrip("/")).removeprefix(PREFIX)


def named(runs: list[str]) -> str:
    """Name the last runs of a list in a message, and count the others."""
    names = ", ".join(map(name_of, runs[-MOST_NAMED:]))
    return f"{names} and {len(runs) - MOST_NAMED:,} more" if len(runs) > MOST_NAMED else names


def why_no_run(url: str) -> str:
    """Return why a folder without a stored plan is no run, and which runs lie below it, in one line."""
    place, advice = storage.redact(url), f"name the folder of a run, OUTPUT/{PREFIX}…"
    fs, path = storage.filesystem(url)
    if not storage.exists(url):
        return f"{place} does not exist; {advice}"
    if storage.is_local_filesystem(fs) and fs.isfile(path):
        return f"{place} is a file, not a run; {advice}"
    if posixpath.basename(path).startswith(PREFIX):  # a driver stores its lease before it lists the images
        return (
            f"{place} has written nothing yet: its command ended early, or is still listing the images; the same "
            "command goes on with it"
        )
    begun = list(read_each(run_folders(url), CONFIG))
    if begun:
        example = storage.redact(begun[-1])
        return f"{place} is not a run, but the folder of runs: {named(begun)}; name one of them, such as {example}"
    return f"{place} is not a run; {advice}"


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
