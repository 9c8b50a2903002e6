"""The sink: predicted images of a shard go in, one Parquet file with exactly the plan's rows is written."""

import functools
import math
import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any

import pyarrow as pa

from pipeline import parquet, storage
from pipeline.bulk.fetch import Failure
from pipeline.bulk.helpers import Death, HelperPool
from pipeline.bulk.image_worker import Described, Predicted, start_helpers
from pipeline.bulk.kind import RunKind
from pipeline.bulk.plan import PlanReader
from pipeline.bulk.schema import compression
from pipeline.bulk.shards import IMAGES, part_name
from pipeline.bulk.table_input import row_uri

ROW_GROUP = 1000  # rows: looking up one image reads a few MB, and a scan still meets few groups
IMAGES_AT_A_TIME = 8  # described by a call, so that messages cost little beside the images
CALLS_AHEAD = 4  # for each process
PIXELS_WAITING = 32_000_000  # in calls that are not answered
SECONDS, SECONDS_PER_MEGAPIXEL = 600.0, 100.0  # without an answer; a dense CRF takes seconds for a megapixel

Batches = Iterable[list[tuple[int, Predicted]]]  # positions in the shard, and the images


class ShardWriter:
    """Writes the files of a run's rows; a retry writes the same file again.

    Args:
        kind: Kind of the run.
        run: Folder of the run.
        schema: Schema of the table `images`.
    """

    def __init__(self, kind: RunKind, *, run: str, schema: pa.Schema):
        self._kind = kind
        self._run = run
        self._schema = schema

    def write(self, shard: int, images: list[dict[str, Any]], batches: Batches, pool: HelperPool) -> pa.Table:
        """Compute the rows of a shard in helper processes and write them.

        Args:
            shard: Number of the shard.
            images: Its rows of the plan.
            batches: Each of its images once, in any order.
            pool: Helper processes with an `ImageWorker`.

        Returns:
            A row with the number of the shard, its images, the errors among them, and the milliseconds that the
            network and the rows took in all.
        """
        rows: dict[int, dict[str, Any]] = {}
        describe_ms = 0.0
        for i, predicted, described in _describe(batches, pool, stage="crf" if self._kind.refines else "describe"):
            rows[i] = self._row(images[i], predicted, described.columns)
            describe_ms += described.milliseconds
        if sorted(rows) != list(range(len(images))):
            raise RuntimeError(f"{len(rows)} images are not shard {shard} of {len(images)} images")
        in_order = [rows[i] | {"shard": shard} for i in range(len(images))]
        write_part(self._run, part_name(shard), pa.Table.from_pylist(in_order, schema=self._schema))
        counts = {
            "shard": shard,
            "images": len(in_order),
            "errors": sum(row["status"] == "error" for row in in_order),
            "infer_ms": sum(row["t_infer_ms"] or 0.0 for row in in_order),
            "describe_ms": describe_ms,
        }
        return pa.Table.from_pylist([counts])

    def _row(self, image: dict[str, Any], predicted: Predicted, columns: dict[str, Any] | Failure) -> dict[str, Any]:
        fetched = predicted.fetched
        if fetched.image_id != image["image_id"]:
            raise RuntimeError(f"the image {fetched.image_id} is not the plan's {image['image_id']}")
        row = dict.fromkeys(self._schema.names) | {
            "image_id": fetched.image_id,
            "uri": row_uri(storage.redact(image["uri"]), image["row"]),
            "etag": image["etag"] or None,
            "status": "ok",
            "width": fetched.width,
            "height": fetched.height,
            "sha256": fetched.sha256,
            "t_fetch_ms": fetched.fetch_ms,
            "t_decode_ms": fetched.decode_ms,
            "t_infer_ms": predicted.infer_ms,
        }
        if isinstance(columns, Failure):
            return row | {"status": "error"} | columns.columns
        return row | columns


class RefiningWriter:
    """The CPU task of runs whose rows take long to compute: packed images go in, the shard is written.

    Args:
        writer: Writes the rows.
        kind: Kind of the run.
        plan: Plan of the run.
    """

    def __init__(self, writer: ShardWriter, *, kind: RunKind, plan: PlanReader):
        self._writer = writer
        self._kind = kind
        self._plan = plan

    def __call__(self, block: pa.Table) -> pa.Table:
        """Write a block of `pack`; return what `ShardWriter.write` does."""
        shard = block["shard"][0].as_py()
        images = self._plan.shard(shard).images
        return self._writer.write(shard, images, _unpack(block), helper_of_task(self._kind))


def helper_of_task(kind: RunKind) -> HelperPool:
    """Return the helper process of this process's tasks; it lives as long as this process."""
    from ray import cloudpickle

    return _helper_of_task(cloudpickle.dumps(kind))


@functools.lru_cache(maxsize=1)
def _helper_of_task(kind: bytes) -> HelperPool:
    return start_helpers(pickle.loads(kind), 1, threads=1)


def pack(shard: int, batches: Batches) -> pa.Table:
    """Return predicted images as a block for a `RefiningWriter`, in the order of the plan."""
    packed = {i: pickle.dumps(predicted, protocol=5) for batch in batches for i, predicted in batch}
    columns = {
        "shard": pa.array([shard] * len(packed), pa.int32()),
        "position": pa.array(sorted(packed), pa.int32()),
        "predicted": pa.array([packed[i] for i in sorted(packed)], pa.large_binary()),
    }
    return pa.table(columns)


def _unpack(block: pa.Table) -> Iterator[list[tuple[int, Predicted]]]:
    for position, predicted in zip(block["position"].to_pylist(), block["predicted"], strict=True):
        yield [(position, pickle.loads(predicted.as_buffer()))]


def _describe(batches: Batches, pool: HelperPool, *, stage: str) -> Iterator[tuple[int, Predicted, Described]]:
    """Yield each image with its columns, while the next ones are described."""
    running: deque[tuple[list[tuple[int, Predicted]], int, Future]] = deque()
    for batch in batches:
        some = [(i, one) for i, one in batch if one.fetched.failure is None]
        yield from ((i, one, Described(one.fetched.failure, 0.0)) for i, one in batch if one.fetched.failure)
        size = max(1, min(IMAGES_AT_A_TIME, math.ceil(len(some) / len(pool))))
        for start in range(0, len(some), size):
            chunk = some[start : start + size]
            pixels = sum((one.fetched.width or 0) * (one.fetched.height or 0) for _, one in chunk)
            seconds = SECONDS + SECONDS_PER_MEGAPIXEL * pixels / 1e6
            running.append((chunk, pixels, pool.submit("describe", [one for _, one in chunk], seconds=seconds)))
            while running and (
                running[0][2].done()
                or len(running) > CALLS_AHEAD * len(pool)
                or sum(pixels for _, pixels, _ in running) > PIXELS_WAITING
            ):
                yield from _answers(*running.popleft(), stage)
    while running:
        yield from _answers(*running.popleft(), stage)


def _answers(
    chunk: list[tuple[int, Predicted]], _: int, future: Future, stage: str
) -> Iterator[tuple[int, Predicted, Described]]:
    for (i, one), answer in zip(chunk, future.result(), strict=True):
        if isinstance(answer, Death):
            answer = Described(Failure.death(stage, answer.cause), 0.0)
        yield i, one, answer


def write_part(run: str, name: str, table: pa.Table) -> None:
    """Write rows as a file of `images`, atomically."""
    url = storage.join(run, IMAGES, name)
    parquet.write_table(url, table, compression=compression(table.schema), row_group_size=ROW_GROUP)
