"""Which runs a query reads, and which of their files: those of the manifest, or the shards of an unfinished run."""

from dataclasses import dataclass, field, replace
from typing import Any

from pipeline import storage
from pipeline.bulk.catalogue import (
    CONFIG,
    MANIFEST,
    PREFIX,
    name_of,
    named,
    read_each,
    read_json,
    run_folders,
    why_no_run,
)
from pipeline.bulk.plan import SUMMARY
from pipeline.bulk.shards import parts
from pipeline.errors import UserError


@dataclass(frozen=True)
class StoredRun:
    """The tables of a run.

    Attributes:
        folder: Folder of the run.
        run_id: Name of the run.
        about: Manifest of a finished run, else its identity: job, configuration, classes.
        files: Files of the rows of `images` below the folder.
        tables: Files of the reports below the folder, by name.
        note: Line for the user about an unfinished run; empty for a finished one.
    """

    folder: str
    run_id: str
    about: dict[str, Any]
    files: list[str]
    tables: dict[str, str] = field(default_factory=dict)
    note: str = ""


def find_runs(url: str, *, run_id: str | None = None, all_runs: bool = False) -> tuple[list[StoredRun], list[str]]:
    """Find the runs that a query reads, the oldest first, and lines for the user.

    Args:
        url: Folder of a run, or the output folder of jobs.
        run_id: Name of a run below an output folder; by default the newest finished one.
        all_runs: Take all finished runs of the newest one's job below an output folder.

    Raises:
        UserError: There is no such run, or it has no rows yet.
    """
    run = _read_run(url, read_json(storage.join(url, MANIFEST)))
    if run is not None:
        if all_runs or run_id not in (None, run.run_id):
            option = "--all-runs" if all_runs else f"--run-id {run_id}"
            raise UserError(f"{option}: {storage.redact(url)} is a run itself; name the folder that holds the runs")
        return [run], _notes(run)
    place, folders = storage.redact(url), run_folders(url)
    if not folders:
        raise UserError(why_no_run(url))
    if run_id is not None:
        folder = storage.join(url, PREFIX + run_id)
        run = _read_run(folder, read_json(storage.join(folder, MANIFEST)))
        if run is None:
            raise UserError(f"--run-id: {place} has no run '{run_id}'; it has {named(_begun(folders))}")
        return [run], _notes(run)
    manifests = read_each(folders, MANIFEST)
    if not manifests:
        runs = named(_begun(folders))
        raise UserError(f"{place} has no finished run; --run-id NAME queries what one has written: {runs}")
    by_time = sorted(manifests, key=lambda folder: manifests[folder]["finished"])
    newest = by_time[-1]
    if not all_runs:
        run = _finished(newest, manifests[newest])
        others = f", the newest of {len(by_time)} finished runs (--run-id NAME takes another, --all-runs all)"
        return [run], [f"{PREFIX}{run.run_id}{others}"] if len(by_time) > 1 else []
    job = manifests[newest].get("job")
    some = [folder for folder in by_time if manifests[folder].get("job") == job]
    return [replace(_finished(folder, manifests[folder]), run_id=name_of(folder)) for folder in some], []


def _begun(folders: list[str]) -> list[str]:
    """Return the runs that have a plan; a command that ends before leaves an empty folder.

    Raises:
        UserError: None of them has one.
    """
    begun = list(read_each(folders, CONFIG))
    if not begun:
        raise UserError(why_no_run(folders[-1]))
    return begun


def _read_run(folder: str, manifest: dict[str, Any] | None) -> StoredRun | None:
    """Return the run in a folder; None if there is none."""
    if manifest is not None:
        return _finished(folder, manifest)
    about = read_json(storage.join(folder, CONFIG))
    if about is None:
        return None
    place = storage.redact(folder)
    with storage.friendly_errors(folder, "cannot read"):
        files = list(parts(folder))
    if not files:
        raise UserError(f"{place} has written no rows yet; segpipe status {place} shows how far it is")
    shards = len((read_json(storage.join(folder, SUMMARY)) or {}).get("shard_images", ()))
    note = f"{place} is not finished: the views hold {len(files):,} of its {shards:,} shards"
    return StoredRun(folder, name_of(folder), about, files, note=note)


def _finished(folder: str, manifest: dict[str, Any]) -> StoredRun:
    files = [file["path"] for file in manifest["files"]]
    tables = {path.partition("/")[0]: path for path in manifest["tables"]}
    return StoredRun(folder, manifest["run_id"], manifest, files, tables)


def _notes(run: StoredRun) -> list[str]:
    return [run.note] if run.note else []
