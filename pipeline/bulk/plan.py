"""The plan of a run: which images, cut into which shards. It is stored once and never changes."""

import functools
import hashlib
import json
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import __version__, parquet, storage
from pipeline.bulk.config import BulkConfig
from pipeline.bulk.listing import InputImage, list_input
from pipeline.bulk.shards import cut_shards
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.errors import UserError

RUN_FOLDER = "_run"
PLAN = f"{RUN_FOLDER}/plan.parquet"
CONFIG = f"{RUN_FOLDER}/config.json"
MANIFEST = "manifest.json"
ROW_GROUP = 8192  # rows of the plan that a worker reads at a time

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("row", pa.int64()),
        ("bytes", pa.int64()),
        ("etag", pa.string()),
        ("mtime", pa.string()),
        ("truth", pa.string()),  # ground truth in the form of the run's kind; null where there is none
        ("shard", pa.int32()),
    ]
)


def list_wanted(config: BulkConfig) -> list[InputImage]:
    """List the input without the images that `--since` or `--retry-errors` exclude.

    Raises:
        UserError: The input is empty or cannot be listed, or the earlier run is not finished.
    """
    found = list_input(config.images)
    if config.since:
        found = _changed_since(found, config.since)
    if config.retry_errors:
        found = _errors_of(found, config.retry_errors)
    return found


def make_plan(
    config: BulkConfig, images: list[InputImage], truth: Callable[[list[InputImage]], list[str | None]]
) -> pa.Table:
    """Note the ground truth of each image and cut the images into shards.

    Args:
        config: Configuration of the run.
        images: See `list_wanted`.
        truth: See `kind.RunKind.truth`.

    Returns:
        One row per image in the order of ids, with `SCHEMA`; `shard` counts from 0 without gaps.

    Raises:
        UserError: The ground truth cannot be used.
    """
    fields = zip(*images, strict=True) if images else [()] * len(InputImage._fields)
    columns: dict[str, list[Any]] = {name: list(v) for name, v in zip(InputImage._fields, fields, strict=True)}
    columns["truth"] = truth(images)
    columns["shard"] = cut_shards([image.bytes for image in images], config.sharding)
    return pa.table(columns, schema=SCHEMA)


def _changed_since(found: list[InputImage], run: str) -> list[InputImage]:
    _require_finished(run)
    before = read_plan(run).select(["image_id", "bytes", "etag", "mtime"]).to_pylist()
    known = {row["image_id"]: (row["bytes"], row["etag"] or row["mtime"]) for row in before}
    return [image for image in found if known.get(image.image_id) != (image.bytes, image.etag or image.mtime)]


def _errors_of(found: list[InputImage], run: str) -> list[InputImage]:
    failed: set[str] = set()
    for file in read_manifest(run)["files"]:
        table = parquet.read_table(storage.join(run, file["path"]), columns=["image_id", "status"])
        failed.update(table.filter(pc.field("status") == "error")["image_id"].to_pylist())
    return [image for image in found if image.image_id in failed]


def _require_finished(run: str) -> None:
    if not storage.exists(storage.join(run, MANIFEST)):
        raise UserError(
            f"{storage.redact(run)} is not a finished run: it has no {MANIFEST}; its own command finishes it"
        )


def run_identity(config: BulkConfig, card: Card, classes: Classes) -> dict[str, Any]:
    """Return all that decides a run's rows besides the images themselves."""
    options = config.deciding_options()
    return {
        # The configuration is stored in every file of the run, and a URL may hold a password or a signature.
        "config": {name: storage.redact(value) if isinstance(value, str) else value for name, value in options.items()},
        "model_fingerprint": card.fingerprint,
        "classes": classes.model_dump(mode="json"),
        "code_version": __version__,
    }


def default_run_id(identity: dict[str, Any], card: Card) -> str:
    """Return the default name of a run, which depends on model and options alone: a repeated command finds its run."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{card.architecture}-{digest[:8]}"


def store_plan(run: str, plan: pa.Table, identity: dict[str, Any]) -> None:
    """Write the plan, then the configuration: if the configuration exists, the plan is complete."""
    parquet.write_table(storage.join(run, PLAN), plan, row_group_size=ROW_GROUP)
    storage.write_bytes(storage.join(run, CONFIG), json.dumps(identity, indent=2).encode())


def read_plan(run: str) -> pa.Table:
    """Read the whole plan of a run."""
    url = storage.join(run, PLAN)
    with storage.friendly_errors(url, "cannot read the plan"):
        return parquet.read_table(url)


class PlannedShard(NamedTuple):
    """The images of a shard, as rows of the plan, and the position of the first of them in the plan."""

    images: list[dict[str, Any]]
    first: int


class PlanReader:
    """Reads single shards of a stored plan, and of the plan only the row groups that hold them.

    It is pickled to workers, each of which keeps what it read last.

    Args:
        run: Folder of the run.
    """

    def __init__(self, run: str):
        self._url = storage.join(run, PLAN)
        self._key = uuid.uuid4().hex  # tells cache entries apart if a run's folder is removed and made again

    def shard(self, shard: int) -> PlannedShard:
        """Read the plan's rows of a shard."""
        images: list[dict[str, Any]] = []
        position = -1
        for group, first in self._groups_of(shard):
            table = _read_group(self._url, self._key, group)
            inside = pc.indices_nonzero(pc.equal(table["shard"], shard))
            if len(inside):
                start = inside[0].as_py()
                position = first + start if position < 0 else position
                images += table.slice(start, len(inside)).to_pylist()
        return PlannedShard(images, position)

    def _groups_of(self, shard: int) -> list[tuple[int, int]]:
        """Return the row groups that may hold a shard, each with the position of its first row."""
        found = []
        first = 0
        for group, (smallest, largest, rows) in enumerate(_group_ranges(self._url, self._key)):
            if smallest <= shard <= largest:
                found.append((group, first))
            first += rows
        return found


@functools.lru_cache(maxsize=4)
def _group_ranges(url: str, key: str) -> list[tuple[int, int, int]]:
    """Return the smallest and largest shard and the number of rows of each row group of a plan."""
    fs, path = storage.filesystem(url)
    with fs.open(path, "rb") as file:
        metadata = pq.ParquetFile(file).metadata
    column = SCHEMA.get_field_index("shard")
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    ranges = [(group.column(column).statistics, group.num_rows) for group in groups]
    return [(statistics.min, statistics.max, rows) for statistics, rows in ranges]


@functools.lru_cache(maxsize=2)
def _read_group(url: str, key: str, group: int) -> pa.Table:
    fs, path = storage.filesystem(url)
    with storage.friendly_errors(url, "cannot read the plan"), fs.open(path, "rb") as file:
        return pq.ParquetFile(file).read_row_group(group)


def existing_plan(run: str, identity: dict[str, Any]) -> pa.Table | None:
    """Return the plan of a run that was begun before; None where there is none.

    Raises:
        UserError: It was begun with another model or other options.
    """
    url = storage.join(run, CONFIG)
    if not storage.exists(url):
        return None
    stored = json.loads(storage.read_text(url, noun="run's configuration"))
    if stored != identity:
        mine = identity["config"]
        differing = sorted(f"--{k.replace('_', '-')}" for k in mine if stored["config"].get(k) != mine[k])
        differing += [k.replace("_", " ") for k in identity if k != "config" and stored.get(k) != identity[k]]
        raise UserError(
            f"{storage.redact(run)} was begun with another {', '.join(differing)}; repeat the original command, or "
            "choose another --run-id or --output"
        )
    return read_plan(run)


def read_manifest(run: str) -> dict[str, Any]:
    """Read the manifest of a finished run.

    Raises:
        UserError: The run is not finished.
    """
    _require_finished(run)
    return json.loads(storage.read_text(storage.join(run, MANIFEST), noun="manifest"))
