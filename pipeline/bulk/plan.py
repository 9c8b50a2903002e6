"""The plan of a run: which images, cut into which shards. It is stored once and never changes."""

import functools
import hashlib
import itertools
import json
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import __version__, faults, retry, storage
from pipeline.bulk.catalogue import CONFIG, MANIFEST, RUN_FOLDER, why_no_run
from pipeline.bulk.config import LAST, BulkConfig
from pipeline.bulk.listing import IMAGE_FIELDS
from pipeline.bulk.shards import cut_shards
from pipeline.bulk.table_stream import split
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.errors import UserError
from pipeline.secrets import redact_all

PLAN = f"{RUN_FOLDER}/plan.parquet"
SUMMARY = f"{RUN_FOLDER}/plan.json"
PLANNED = "planned"  # metadata of the plan: the time at which its listing began, in seconds since the epoch
ROW_GROUP = 8192  # rows of the plan that a worker reads at a time

SCHEMA = pa.schema(
    [
        *IMAGE_FIELDS,
        ("truth", pa.string()),  # ground truth in the form of the run's kind; null where there is none
        ("shard", pa.int32()),
    ]
)


def make_plan(
    config: BulkConfig,
    images: Iterable[pa.Table],
    truth: Callable[[Iterable[list[str]]], Iterator[Sequence[str | None]]],
    *,
    slow: bool = False,
) -> Iterator[pa.Table]:
    """Note the ground truth of each image and cut the images into shards, a table at a time.

    Args:
        config: Configuration of the run.
        images: Tables with `listing.IMAGE_FIELDS`, ordered by id; see `selection.Selection`.
        truth: See `kind.RunKind.truth`.
        slow: Whether images take long; see `shards.cut_shards`.

    Yields:
        Tables with `SCHEMA` and one row per image in the order of ids; `shard` counts from 0 without gaps.

    Raises:
        UserError: The ground truth cannot be used.
    """
    tables, for_truth, for_sizes = itertools.tee((table for table in images if table.num_rows), 3)
    truths = truth(table["image_id"].to_pylist() for table in for_truth)
    sizes = itertools.chain.from_iterable(table["bytes"].to_pylist() for table in for_sizes)
    shards = cut_shards(sizes, config.sharding, slow=slow)
    for table, known in zip(tables, truths, strict=True):
        own = [pa.array(known, pa.string()), pa.array(itertools.islice(shards, len(table)), pa.int32())]
        yield pa.table([*table.columns, *own], schema=SCHEMA)


@dataclass
class PlanSummary:
    """What the driver of a run keeps of the plan in memory.

    Attributes:
        shard_images: Number of images of each shard.
        bytes: Sum of the known sizes of the images.
        largest: Size of the largest image.
        with_truth: Number of images with ground truth.
    """

    shard_images: list[int] = field(default_factory=list)
    bytes: int = 0
    largest: int = 0
    with_truth: int = 0

    @property
    def images(self) -> int:
        """Number of images of the plan."""
        return sum(self.shard_images)

    def add(self, rows: pa.Table) -> None:
        """Take in the next rows of the plan."""
        for count in pc.value_counts(rows["shard"]).to_pylist():
            self.shard_images += [0] * (count["values"] + 1 - len(self.shard_images))
            self.shard_images[count["values"]] += count["counts"]
        self.bytes += pc.sum(rows["bytes"]).as_py()
        self.largest = max(self.largest, pc.max(rows["bytes"]).as_py())
        self.with_truth += len(rows) - rows["truth"].null_count


def summarize(plan: Iterable[pa.Table]) -> PlanSummary:
    """Describe a plan without storing it."""
    summary = PlanSummary()
    for rows in plan:
        summary.add(rows)
    return summary


def run_identity(config: BulkConfig, card: Card, classes: Classes) -> dict[str, Any]:
    """Return all that decides a run's rows besides the images themselves."""
    return {
        "job": config.job,
        # The configuration is stored in every file of the run, and a URL may hold a password or a signature.
        "config": redact_all(config.deciding_options()),
        "model_fingerprint": card.fingerprint,
        "classes": classes.model_dump(mode="json"),
        "code_version": __version__,
    }


def default_run_id(identity: dict[str, Any], card: Card, earlier: str | None = None) -> str:
    """Return the default name of a run, which depends on model and options alone: a repeated command finds its run.

    Args:
        identity: See `run_identity`.
        card: Card of the model.
        earlier: Folder of the run that `last` means; then the name depends on it, so that each night has another.
    """
    if earlier and LAST in (identity["config"]["since"], identity["config"]["retry_errors"]):
        identity = identity | {"earlier": storage.redact(earlier)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{card.architecture}-{digest[:8]}"


def store_plan(
    run: str, plan: Iterable[pa.Table], identity: dict[str, Any], *, planned: float | None = None
) -> PlanSummary:
    """Write the plan, its summary and then the configuration: if the configuration exists, the plan is complete.

    Args:
        run: Folder of the run.
        plan: Rows of the plan.
        identity: What decides the run's rows besides the images; see `run_identity`.
        planned: Time at which the listing began, in seconds since the epoch; now by default.
    """
    summary = PlanSummary()
    schema = SCHEMA.with_metadata({PLANNED: str(planned or time.time())})
    with tempfile.TemporaryDirectory(prefix="segpipe-plan-") as folder:
        local = Path(folder) / "plan.parquet"
        with pq.ParquetWriter(local, schema, compression="zstd", write_statistics=["shard"]) as writer:
            for rows in split(plan, ROW_GROUP):
                writer.write_table(rows, row_group_size=ROW_GROUP)
                summary.add(rows)
        storage.upload(local, storage.join(run, PLAN))
    storage.write_bytes(storage.join(run, SUMMARY), json.dumps(asdict(summary)).encode())
    storage.write_bytes(storage.join(run, CONFIG), json.dumps(identity, indent=2).encode())
    return summary


def read_plan(run: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yield the row groups of a run's plan, or some of their columns."""
    return read_row_groups(storage.join(run, PLAN), columns)


def read_row_groups(url: str, columns: list[str] | None) -> Iterator[pa.Table]:
    """Yield the row groups of a Parquet file that lists images, or some of their columns."""
    fs, path = storage.filesystem(url)
    with storage.friendly_errors(url, "cannot read the plan"), fs.open(path, "rb") as file:
        plan = pq.ParquetFile(file)
        for group in range(plan.num_row_groups):
            yield plan.read_row_group(group, columns=columns)


class PlanReader:
    """Reads single shards of a stored plan, and of the plan only the row groups that hold them.

    It is pickled to workers, each of which keeps what it read last.

    Args:
        run: Folder of the run.
    """

    def __init__(self, run: str):
        self._url = storage.join(run, PLAN)
        self._key = uuid.uuid4().hex  # tells cache entries apart if a run's folder is removed and made again

    @property
    def images(self) -> int:
        """Number of images of the plan."""
        return _metadata(self._url, self._key).num_rows

    @property
    def planned(self) -> float:
        """Time at which the listing began, in seconds since the epoch."""
        return float(_metadata(self._url, self._key).metadata[PLANNED.encode()])

    def shard(self, shard: int) -> list[dict[str, Any]]:
        """Read the images of a shard, as rows of the plan."""
        images: list[dict[str, Any]] = []
        for group, (smallest, largest) in enumerate(_group_ranges(self._url, self._key)):
            if smallest <= shard <= largest:
                table = _read_group(self._url, self._key, group)
                images += table.filter(pc.equal(table["shard"], shard)).to_pylist()
        return images


@functools.lru_cache(maxsize=4)
def _metadata(url: str, key: str) -> pq.FileMetaData:
    def read() -> pq.FileMetaData:
        fs, path = storage.filesystem(url)
        with fs.open(path, "rb") as file:
            return pq.ParquetFile(file).metadata

    with faults.store_faults(url):
        return retry.patiently(read, url)


@functools.lru_cache(maxsize=4)
def _group_ranges(url: str, key: str) -> list[tuple[int, int]]:
    """Return the smallest and the largest shard of each row group of a plan."""
    metadata = _metadata(url, key)
    column = SCHEMA.get_field_index("shard")
    statistics = [metadata.row_group(i).column(column).statistics for i in range(metadata.num_row_groups)]
    return [(group.min, group.max) for group in statistics]


@functools.lru_cache(maxsize=2)
def _read_group(url: str, key: str, group: int) -> pa.Table:
    def read() -> pa.Table:
        fs, path = storage.filesystem(url)
        with fs.open(path, "rb") as file:
            return pq.ParquetFile(file, metadata=_metadata(url, key)).read_row_group(group)

    with faults.store_faults(url):
        return retry.patiently(read, url)


def existing_plan(run: str, identity: dict[str, Any]) -> PlanSummary | None:
    """Return the summary of the plan of a run that was begun before; None where there is none.

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
    return PlanSummary(**json.loads(storage.read_text(storage.join(run, SUMMARY), noun="summary of the plan")))


def read_manifest(run: str) -> dict[str, Any]:
    """Read the manifest of a finished run.

    Raises:
        UserError: It is no run, or not finished.
    """
    require_finished(run)
    return json.loads(storage.read_text(storage.join(run, MANIFEST), noun="manifest"))


def require_finished(run: str) -> None:
    """Refuse a folder that is not a finished run.

    Raises:
        UserError: It is no run, or not finished.
    """
    with storage.friendly_errors(run, "cannot read"):
        if storage.exists(storage.join(run, MANIFEST)):
            return
        place = storage.redact(run)
        is_begun = storage.exists(storage.join(run, CONFIG))
        raise UserError(
            f"{place} is not finished; segpipe status {place} says what to do" if is_begun else why_no_run(run)
        )
