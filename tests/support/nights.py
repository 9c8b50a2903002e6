"""Bulk runs whose rows are computed in the test's own process: plan, rows, end and report are real, Ray is left out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from pipeline.bulk.config import BulkConfig, Sharding
from pipeline.bulk.describe import Described
from pipeline.bulk.fetch import Failure, Fetched
from pipeline.bulk.kind import RunReport
from pipeline.bulk.outcome import Outcome
from pipeline.bulk.plan import PlanReader
from pipeline.bulk.run import run_bulk
from pipeline.bulk.schema import results_schema
from pipeline.bulk.write import ShardWriter
from pipeline.card import Card
from pipeline.data.classes import Classes

CLASSES = Classes(names=("a", "b"))
CARD = Card(architecture="plain", options={}, classes=CLASSES)


class PlainConfig(BulkConfig):
    """The options of a job that computes nothing."""

    job: ClassVar[str] = "plain"


class PlainRun:
    """A kind of run whose rows hold nothing of their own; see `kind.RunKind`."""

    refines = False
    seconds_per_image = 0.0
    classes = CLASSES
    card = CARD

    def __init__(self, config: BulkConfig):
        self.config = config

    def images_schema(self, metadata: dict[str, Any]) -> pa.Schema:
        return results_schema([], pictures=[], metadata=metadata)

    def truth(self, ids: Iterable[list[str]]) -> Iterator[Sequence[str | None]]:
        yield from ([None] * len(some) for some in ids)

    def load_predictor(self, images: int) -> Any:
        raise NotImplementedError

    def warm_up(self) -> None:
        raise NotImplementedError

    def prepare(self, pixels: Any) -> Any:
        raise NotImplementedError

    def row(self, fetched: Fetched, result: Any) -> dict[str, Any]:
        raise NotImplementedError

    def report(self, run: str, files: Sequence[str], images: Any) -> RunReport:
        return RunReport()


def rows_of_shard(images: list[dict[str, Any]]) -> Iterator[tuple[int, Described]]:
    """Yield the images of a shard; those named broken* have failed."""
    for i, image in enumerate(images):
        name = image["image_id"].rpartition("/")[2]
        fetched = Fetched(image["image_id"], sha256="0" * 64, width=1, height=1)
        failure = Failure("decode", "ImageError", "the file is empty")
        yield i, Described(fetched, failure if name.startswith("broken") else {}, None, 0.0)


class Killed(BaseException):
    """The end of a driver that is killed."""


def without_ray(monkeypatch: pytest.MonkeyPatch, *, stop: Callable[[int], None] = lambda shard: None) -> list[int]:
    """Let runs compute their shards in this process.

    Args:
        monkeypatch: Undoes it.
        stop: Called before each shard; may raise to end the driver.

    Returns:
        The shards that are computed, in order; it is filled while runs go on.
    """
    computed: list[int] = []

    def stream(
        kind: Any, run: str, shards: list[int], schema: pa.Schema, *, images: int, driver: str, on_shard: Any
    ) -> None:
        plan, writer = PlanReader(run), ShardWriter(run=run, schema=schema)
        for shard in shards:
            stop(shard)
            rows = plan.shard(shard)
            (counts,) = writer.write(shard, rows, rows_of_shard(rows)).to_pylist()
            computed.append(shard)
            on_shard(counts)

    monkeypatch.setattr("pipeline.bulk.stream.stream", stream)
    monkeypatch.setattr("pipeline.bulk.run._start_ray", lambda kind: None)
    return computed


def compute(config: BulkConfig, outcome: Outcome | None = None) -> str | None:
    """Compute a plain run."""
    return run_bulk(PlainRun(config), outcome)


def draw(folder: Path, *names: str, content: bytes = b"x") -> None:
    """Write files that are listed as images; their content is never read."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(content)


def config_of(folder: Path, **options: Any) -> PlainConfig:
    """Options of a plain run over `folder/images` into `folder/runs`, in shards of three."""
    places = {"model": "/m", "images": str(folder / "images"), "output": str(folder / "runs")}
    return PlainConfig(**(places | {"sharding": Sharding(max_images=3)} | options))
