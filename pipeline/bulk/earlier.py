"""The earlier run that `--since` or `--retry-errors` names: which one `last` is, and which images it knows.

A run with `--since` plans only what is new, but stores the listing of its whole input beside the plan. The next night
compares its input with this listing, so that it knows the images of all nights before. The ids of images that the input
no longer has are stored, too.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.bulk.catalogue import CONFIG, MANIFEST, RUN_FOLDER, read_each, read_json, run_folders
from pipeline.bulk.config import LAST, BulkConfig
from pipeline.bulk.plan import PLAN, ROW_GROUP, SCHEMA, read_row_groups
from pipeline.errors import UserError

EARLIER = f"{RUN_FOLDER}/earlier.json"
LISTING = f"{RUN_FOLDER}/listing.parquet"
REMOVED = f"{RUN_FOLDER}/removed.parquet"
_OF_INPUT = {"images", "since", "retry_errors", "sharding", "batch_pixels"}  # options that change no result
COMPARED = ["image_id", "bytes", "etag", "mtime"]

Config = TypeVar("Config", bound=BulkConfig)


def names_last(config: BulkConfig) -> bool:
    """Tell whether `--since` or `--retry-errors` is `last`."""
    return LAST in (config.since, config.retry_errors)


def find_earlier(config: BulkConfig) -> str | None:
    """Return the folder of the run that `--since` or `--retry-errors` names.

    `last` is the newest finished run of the same job over the same input in the same output. For `--since`, runs of
    `--retry-errors` are passed over, because they know only the images that they retried.

    Returns:
        The folder; None without either option, and on the first night of `--since last`.

    Raises:
        UserError: There is no run for `--retry-errors last`.
    """
    if not names_last(config):
        return config.since or config.retry_errors
    images = storage.redact(config.images)
    found = [
        (manifest["finished"], run)
        for run, manifest in read_each(run_folders(config.output), MANIFEST).items()
        if manifest.get("job") == config.job
        and manifest["config"]["images"] == images
        and (config.retry_errors or not manifest["config"]["retry_errors"])
    ]
    if not found and config.retry_errors:
        raise UserError(
            f"--retry-errors last: {storage.redact(config.output)} has no finished run of this job over {images}"
        )
    return max(found)[1] if found else None


def with_earlier(config: Config, earlier: str | None) -> Config:
    """Return the configuration with the folder of the earlier run in place of `last`."""
    names = [name for name in ("since", "retry_errors") if getattr(config, name) == LAST]
    return config.model_copy(update=dict.fromkeys(names, earlier))


def require_whole(run: str) -> None:
    """Refuse a run for `--since` that knows only a part of its input.

    Raises:
        UserError: It was begun with `--retry-errors`.
    """
    identity = read_json(storage.join(run, CONFIG)) or {}
    if identity.get("config", {}).get("retry_errors"):
        raise UserError(
            f"--since: {storage.redact(run)} was begun with --retry-errors and knows only the images that it retried; "
            "name the run before it"
        )


def changed_options(run: str, identity: dict[str, Any]) -> list[str]:
    """Return the options, and "--model", in which an earlier run differs from this one and that decide its results.

    Args:
        run: Folder of the earlier run.
        identity: Identity of this run, as `plan.run_identity` has it.
    """
    stored = read_json(storage.join(run, CONFIG)) or {}
    before, now = stored.get("config", {}), identity["config"]
    names = [name for name in now if name in before and name not in _OF_INPUT and before[name] != now[name]]
    is_other = stored.get("model_fingerprint") != identity["model_fingerprint"]
    return ["--model"] * is_other + [f"--{name.replace('_', '-')}" for name in names]


@contextmanager
def stored_table(url: str | None, columns: list[str]) -> Iterator[Callable[[pa.Table], None]]:
    """Store some columns of any number of images as a Parquet file, once the block has ended without an error.

    Args:
        url: The file; None to store nothing.
        columns: Columns of the plan.

    Yields:
        A function that takes the next rows.
    """
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    if url is None:
        yield lambda rows: None
        return
    with tempfile.TemporaryDirectory(prefix="segpipe-listing-") as folder:
        local = Path(folder) / "rows.parquet"
        with pq.ParquetWriter(local, schema, compression="zstd") as writer:
            yield lambda rows: writer.write_table(rows.select(columns), row_group_size=ROW_GROUP)
        storage.upload(local, url)


def known_images(run: str) -> Iterator[pa.Table]:
    """Yield the images that were in the input of a run when it was planned, with the columns `COMPARED`."""
    yield from read_row_groups(storage.join(run, LISTING if read_earlier(run).is_listed else PLAN), COMPARED)


class Earlier(NamedTuple):
    """What a run continues.

    Attributes:
        run: Folder of the earlier run, fit for a message; None if the run continues none.
        removed: Number of its images that the input no longer has; None if not known.
        is_listed: Whether the run has a listing of its whole input, because its plan is only a part of it.
    """

    run: str | None = None
    removed: int | None = None
    is_listed: bool = False


def store_earlier(run: str, earlier: Earlier) -> None:
    """Store what a run continues, beside its plan."""
    storage.write_bytes(storage.join(run, EARLIER), json.dumps(earlier._asdict(), indent=2).encode())


def read_earlier(run: str) -> Earlier:
    """Read what a run continues."""
    return Earlier(**(read_json(storage.join(run, EARLIER)) or {}))
