"""Removing whole runs by age, number and size, without those that others need."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline import storage
from pipeline.bulk.catalogue import CONFIG, MANIFEST, PREFIX, read_each, run_folders, written_at
from pipeline.bulk.config import LAST
from pipeline.bulk.driver import LEASE, is_live, read_lease
from pipeline.bulk.earlier import EARLIER
from pipeline.bulk.upkeep_config import PruneConfig
from pipeline.errors import UserError
from pipeline.threads import in_order
from pipeline.units import format_bytes, format_duration
from pipeline.walk import iter_files


@dataclass
class StoredRun:
    """A run on storage.

    Attributes:
        run: Folder of the run.
        group: Job and input of the run.
        time: Time at which it was finished, or at which a file of an unfinished run was written last.
        is_finished: Whether it has a manifest.
        is_leased: Whether a driver works on it.
        needs: Names of the folders of the runs that its `--since` or `--retry-errors` names.
        retries: Name of the folder of the run whose errors it computed; None for other runs.
        bytes: Size of all its files.
    """

    run: str
    group: tuple[str, str]
    time: datetime
    is_finished: bool
    is_leased: bool
    needs: set[str]
    retries: str | None
    bytes: int

    @property
    def name(self) -> str:
        """Name of its folder: `run_id=…`."""
        return _name(self.run)


@dataclass
class Pruning:
    """What is removed, and what is not.

    Attributes:
        removed: Runs to remove, the oldest first.
        kept: Runs that a limit concerns, but that stay, with the reason.
        bytes_left: Size of all runs that stay.
        unfinished: Number of unfinished runs that stay.
    """

    removed: list[StoredRun]
    kept: list[tuple[StoredRun, str]]
    bytes_left: int
    unfinished: int


def plan_pruning(config: PruneConfig) -> Pruning:
    """Choose the runs to remove, and remove nothing.

    Raises:
        UserError: The folder holds no run, or the options name no limit or do not fit.
    """
    if config.older_than is None and config.max_size is None and config.keep is None:
        raise UserError("name what to remove: --older-than 30d, --keep 7 or --max-size 500GiB")
    if config.unfinished and config.older_than is None:
        raise UserError("--unfinished needs --older-than, such as 7d: a run that was interrupted today can be resumed")
    return choose(config, read_runs(config.output))


def read_runs(output: str) -> list[StoredRun]:
    """Read the runs below an output folder, the oldest first. Folders without a configuration are no runs.

    Raises:
        UserError: There is none.
    """
    place = storage.redact(output)
    if storage.exists(storage.join(output, CONFIG)):
        raise UserError(f"{place} is a run; name the folder above it")
    folders = run_folders(output)
    identities = read_each(folders, CONFIG)
    if not identities:
        raise UserError(f"{place} holds no run: no folder {PREFIX}… into which a run has written")
    runs = list(identities)
    manifests, earlier, leases = (read_each(runs, path) for path in (MANIFEST, EARLIER, LEASE))
    found = in_order(
        lambda run: _read_run(run, identities[run], manifests.get(run), earlier.get(run, {}), leases.get(run)), runs
    )
    return sorted(found, key=lambda run: run.time)


def _read_run(
    run: str,
    identity: dict[str, Any],
    manifest: dict[str, Any] | None,
    earlier: dict[str, Any],
    lease: dict[str, Any] | None,
) -> StoredRun:
    options = identity["config"]
    named = [url for url in (options["since"], options["retry_errors"], earlier.get("run")) if url not in (None, LAST)]
    files = list(iter_files(run))
    if manifest is not None:
        time = datetime.fromisoformat(manifest["finished"])
    else:
        times = [written for file in files if (written := written_at(file)) is not None]
        time = max(times, default=datetime.now(UTC))  # a run of unknown age is never old
    return StoredRun(
        run=run,
        group=(identity.get("job", ""), options["images"]),
        time=time,
        is_finished=manifest is not None,
        is_leased=is_live(lease),
        needs={_name(url) for url in named},
        retries=_name(earlier.get("run") or options["retry_errors"]) if options["retry_errors"] else None,
        bytes=sum(file.size for file in files),
    )


def _name(url: str) -> str:
    return url.rstrip("/").rsplit("/", 1)[-1]


def choose(config: PruneConfig, runs: list[StoredRun], now: datetime | None = None) -> Pruning:
    """Choose the runs to remove.

    Args:
        config: The limits.
        runs: All runs, the oldest first.
        now: The time; by default that of the clock.
    """
    now = now or datetime.now(UTC)
    reasons = _reasons_to_stay(config, runs)

    def is_old(run: StoredRun) -> bool:
        if config.older_than is None:
            return run.is_finished and config.max_size is None
        return (now - run.time).total_seconds() > config.older_than

    wanted = {run.name for run in runs if is_old(run)}
    removed = _removable(wanted - reasons.keys(), runs)
    if config.max_size is not None:
        total = sum(run.bytes for run in runs)
        for run in runs:  # the oldest first; those that others need go together with them
            if total - sum(each.bytes for each in runs if each.name in removed) <= config.max_size:
                break
            wanted.add(run.name)
            if run.name not in reasons and run.name not in removed:
                removed = _removable(wanted - reasons.keys(), runs)
    stay = [run for run in runs if run.name not in removed]
    needed = _needed_by(stay)
    kept = [
        (run, reasons.get(run.name) or f"{needed.get(run.name) or run.retries} needs it")
        for run in stay
        if run.name in wanted
    ]
    return Pruning(
        removed=[run for run in runs if run.name in removed],
        kept=kept,
        bytes_left=sum(run.bytes for run in stay),
        unfinished=sum(not run.is_finished for run in stay),
    )


def _reasons_to_stay(config: PruneConfig, runs: list[StoredRun]) -> dict[str, str]:
    """Return why some runs stay whatever the limits are."""
    keep = 1 if config.keep is None else config.keep
    reasons = {}
    groups = defaultdict(list)
    for run in runs:
        if run.is_leased:
            reasons[run.name] = "a driver is at work on it"
        elif not run.is_finished and not config.unfinished:
            reasons[run.name] = "it is not finished"
        if run.is_finished and run.retries is None:
            groups[run.group].append(run)
    for finished in groups.values():
        for run in finished[max(0, len(finished) - keep) :]:
            reasons.setdefault(run.name, "it is among the newest of its input")
    return reasons


def _needed_by(runs: Iterable[StoredRun]) -> dict[str, str]:
    """Return the names of the runs that some runs need, and the name of one that needs each."""
    return {name: run.name for run in runs for name in run.needs}


def _removable(names: set[str], runs: list[StoredRun]) -> set[str]:
    """Leave out the runs that a run which stays needs, and its retries, whose images it lacks."""
    while True:
        stay = [run for run in runs if run.name not in names]
        needed, kept = _needed_by(stay), {run.name for run in stay}
        free = names - needed.keys()
        rest = {run.name for run in runs if run.name in free and run.retries not in kept}
        if rest == names:
            return rest
        names = rest


def remove_run(run: StoredRun) -> bool:
    """Remove a run: the manifest first, so that nobody takes the rest for a finished run, and the configuration last.

    Returns:
        Whether it was removed; not if a driver has begun to work on it.
    """
    if is_live(read_lease(run.run)):
        return False
    storage.remove(storage.join(run.run, MANIFEST))
    fs, path = storage.filesystem(run.run)
    config = f"{path}/{CONFIG}"
    for _ in in_order(fs.rm_file, [file.path for file in iter_files(run.run) if file.path != config]):
        pass
    fs.rm_file(config)
    if storage.is_local_filesystem(fs):  # other stores have no folders
        fs.rm(path, recursive=True)
    return True


def format_pruning(pruning: Pruning, now: datetime | None = None) -> Iterator[str]:
    """Yield a line for each run that a limit concerns, and one for those that stay."""
    now = now or datetime.now(UTC)

    def line(run: StoredRun) -> str:
        kind = "finished" if run.is_finished else "unfinished, last written"
        age = format_duration(max(0.0, (now - run.time).total_seconds()))
        return f"{storage.redact(run.run)} ({format_bytes(run.bytes)}, {kind} {age} ago)"

    for run in pruning.removed:
        yield f"remove {line(run)}"
    for run, reason in pruning.kept:
        yield f"keep   {line(run)}: {reason}"
    total = sum(run.bytes for run in pruning.removed)
    text = f"{len(pruning.removed)} runs of {format_bytes(total)} to remove; {format_bytes(pruning.bytes_left)} stay"
    if pruning.unfinished:
        text += f", {pruning.unfinished} unfinished runs among them"
    yield text
