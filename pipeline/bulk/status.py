"""How far a run is, read from storage alone: while it goes on, after its driver died, or once it is finished."""

import json
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.bulk.catalogue import CONFIG, MANIFEST, name_of, read_json, why_no_run, written_at
from pipeline.bulk.driver import is_live, read_lease
from pipeline.bulk.earlier import read_earlier
from pipeline.bulk.outcome import Causes, causes_of
from pipeline.bulk.plan import SUMMARY, PlanSummary
from pipeline.bulk.shards import parts
from pipeline.errors import UserError
from pipeline.threads import in_order

WINDOW = 15 * 60.0  # seconds before the last written shard, over which the rate is measured
FEWEST_PARTS = 5  # that the rate is measured on, if they are older
AT_WORK = "nothing: a driver is at work"
ERROR_COLUMNS = ["image_id", "status", "error_stage", "error_class", "error_message"]

State = Literal["planning", "running", "stopped", "finished"]


@dataclass
class Status:
    """How far a run is.

    Attributes:
        run: Folder of the run, fit for a message.
        run_id: Name of the run.
        job: Name of the job that computes it; None while the plan is made.
        state: planning: the plan is not stored yet. running: a driver holds the lease. stopped: not finished, and no
            driver is at work. finished: the manifest exists.
        images: Images of the plan.
        written: Images whose rows are written.
        errors: Errors among them.
        causes: These errors by cause, the most frequent first; see `Causes.most_common`.
        shards: Shards of the plan.
        shards_written: Shards whose rows are written.
        images_per_second: Rate at which rows were written lately, by the clock of the store; None if not known.
        seconds_left: Time that the images left take at this rate; None if not known.
        last_written: Time at which rows were written last (ISO 8601); None if not known.
        finished: Time at which the run was finished (ISO 8601); None if it is not.
        driver: Lease of the driver: owner, host, pid, time; None without one.
        earlier: Folder of the run that it continues.
        removed: Images of that run that the input no longer has.
        next: What to do.
    """

    run: str
    run_id: str
    job: str | None = None
    state: State = "planning"
    images: int = 0
    written: int = 0
    errors: int = 0
    causes: list[dict[str, Any]] = field(default_factory=list)
    shards: int = 0
    shards_written: int = 0
    images_per_second: float | None = None
    seconds_left: float | None = None
    last_written: str | None = None
    finished: str | None = None
    driver: dict[str, Any] | None = None
    earlier: str | None = None
    removed: int | None = None
    next: str = ""


class Part(NamedTuple):
    """A written file of rows: its images, and when it was written, in seconds since 1970."""

    images: int
    time: float


class StatusReader:
    """Reads the status of a run. It keeps what cannot change, so that looking again costs little.

    Args:
        run: Folder of the run.
    """

    def __init__(self, run: str):
        self._run = run
        self._causes: dict[str, list[dict[str, Any]]] = {}

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return json.loads(storage.read_bytes(storage.join(self._run, CONFIG)))

    @cached_property
    def _plan(self) -> PlanSummary:
        return PlanSummary(**json.loads(storage.read_bytes(storage.join(self._run, SUMMARY))))

    def read(self) -> Status:
        """Read the status of now.

        Raises:
            UserError: There is no run, or it cannot be read.
        """
        with storage.friendly_errors(self._run, "cannot read"):
            place = storage.redact(self._run)
            status = Status(place, name_of(place), driver=read_lease(self._run))
            if not storage.exists(storage.join(self._run, CONFIG)):
                if status.driver is None:
                    raise UserError(why_no_run(self._run))
                if is_live(status.driver):
                    status.next = AT_WORK
                else:
                    status.state, status.next = "stopped", "run the same command again: it makes the plan anew"
                return status
            status.job = self._identity.get("job")
            status.images, status.shards = self._plan.images, len(self._plan.shard_images)
            status.earlier, status.removed, _ = read_earlier(self._run)
            manifest = read_json(storage.join(self._run, MANIFEST))
            if manifest is not None:
                self._add_finished(status, manifest)
            else:
                self._add_unfinished(status)
        _advise(status)
        return status

    def _add_finished(self, status: Status, manifest: dict[str, Any]) -> None:
        status.state, status.finished = "finished", manifest["finished"]
        status.written, status.shards_written = manifest["images"], status.shards
        if manifest["errors"]:
            self._add_errors(status, [file["path"] for file in manifest["files"]])

    def _add_unfinished(self, status: Status) -> None:
        status.state = "running" if is_live(status.driver) else "stopped"
        found = parts(self._run)
        sizes = dict(enumerate(self._plan.shard_images))  # a plan of no image has a file of no shard at the end
        done = set(found.values()) & sizes.keys()
        status.written, status.shards_written = sum(sizes[shard] for shard in done), len(done)
        times = _times(self._run, found)
        written = [Part(sizes.get(found[name], 0), time) for name, time in times.items()]
        if written:
            last = max(part.time for part in written)
            status.last_written = datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds")
            status.images_per_second = rate(written)
        if status.images_per_second:
            status.seconds_left = (status.images - status.written) / status.images_per_second
        self._add_errors(status, found)

    def _add_errors(self, status: Status, files: Iterable[str]) -> None:
        new = [name for name in files if name not in self._causes]
        found = in_order(lambda name: _read_causes(self._run, name), new)
        self._causes |= {name: causes for name, causes in zip(new, found, strict=True) if causes is not None}
        total = Causes()
        for name in files:
            total.add_all(self._causes.get(name, ()))
        status.causes = total.most_common()
        status.errors = total.counts.total()


def _times(run: str, names: Iterable[str]) -> dict[str, float]:
    """Return when files of a run were written, in seconds since 1970; without those whose store keeps no time."""
    wanted = set(names)
    found = {}
    for folder in sorted({posixpath.dirname(name) for name in wanted}):
        for file in storage.list_files(storage.join(run, folder)):
            name, time = f"{folder}/{posixpath.basename(file.path)}", written_at(file)
            if name in wanted and time is not None:
                found[name] = time.timestamp()
    return found


def rate(written: list[Part]) -> float | None:
    """Return the images per second of the last quarter of an hour in which files were written.

    The images of the first file count as written before that time. If there are few files in it, a few older ones are
    taken in.
    """
    written = sorted(written, key=lambda part: part.time)
    recent = [part for part in written if part.time >= written[-1].time - WINDOW]
    recent = max(recent, written[-FEWEST_PARTS:], key=len)
    seconds = recent[-1].time - recent[0].time
    return sum(part.images for part in recent[1:]) / seconds if seconds else None


def _read_causes(run: str, name: str) -> list[dict[str, Any]] | None:
    """Return the causes of the errors in a file, reading only the row groups that have any; None if it is gone."""
    fs, path = storage.filesystem(storage.join(run, name))
    try:
        with fs.open(path, "rb") as file:
            parquet = pq.ParquetFile(file)
            groups = list(_groups_with_errors(parquet.metadata))
            if not groups:
                return []
            rows = parquet.read_row_groups(groups, columns=ERROR_COLUMNS)
            return causes_of(rows.filter(pc.field("status") == "error").to_pylist())
    except FileNotFoundError:  # the run's end has just moved or merged it
        return None


def _groups_with_errors(footer: pq.FileMetaData) -> Iterator[int]:
    """Yield the row groups in which the column `error_class` holds anything."""
    for i in range(footer.num_row_groups):
        group = footer.row_group(i)
        column = next(j for j in range(group.num_columns) if group.column(j).path_in_schema == "error_class")
        statistics = group.column(column).statistics
        if statistics is None or not statistics.has_null_count or statistics.null_count < group.num_rows:
            yield i


def _advise(status: Status) -> None:
    """Set what to do next with a run that has a plan."""
    command = f"segpipe {status.job}" if status.job else "the job"
    match status.state:
        case "finished" if status.errors:
            retry = f"--retry-errors {status.run} --run-id NAME"
            status.next = f"{command} with this run's options and {retry} computes the images that failed again"
        case "finished":
            status.next = "nothing: the run is complete"
        case "stopped":
            status.next = f"run the same command of {command} again: it resumes the run"
        case _:
            status.next = AT_WORK
