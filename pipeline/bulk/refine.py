"""The CPU tasks of runs whose rows take long to compute, as with a dense CRF: packed images go in, a file comes out."""

import functools
import pickle
from collections.abc import Iterator

import pyarrow as pa

from pipeline import allocator, retry
from pipeline.bulk.describe import Batches, Described, describe, pixels_of
from pipeline.bulk.helpers import HelperPool
from pipeline.bulk.image_worker import Predicted, start_helpers
from pipeline.bulk.kind import RunKind
from pipeline.bulk.plan import PlanReader
from pipeline.bulk.write import COUNTS, ShardWriter, undone
from pipeline.errors import IncompleteError

STAGE = "crf"
PACKED_PIXELS = 128_000_000  # in a block; the predictor describes the rest of a shard, so that blocks stay bounded


class RefiningWriter:
    """Describes and writes packed shards.

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
        """Write a block of `pack`; return what `ShardWriter.write` does. A shard that is left undone passes through."""
        if block.schema.equals(COUNTS):
            return block
        retry.be_patient(self._kind.config.store.patience)
        shard = block["shard"][0].as_py()
        try:
            described = _describe_packed(block, helper_of_task(self._kind))
            return self._writer.write(shard, self._plan.shard(shard), described)
        except IncompleteError as error:
            return undone(shard, len(block), str(error))


def pack(shard: int, batches: Batches, pool: HelperPool) -> pa.Table:
    """Return a shard as a block for a `RefiningWriter`.

    Args:
        shard: Number of the shard.
        batches: Each of its images once, in any order.
        pool: Helper processes of the predictor.
    """
    packed: dict[int, bytes] = {}
    pixels = 0

    def beyond_block() -> Iterator[list[tuple[int, Predicted]]]:
        nonlocal pixels
        for batch in batches:
            for i, one in batch:
                pixels += pixels_of(one.fetched)
                if pixels <= PACKED_PIXELS or one.fetched.failure is not None:
                    packed[i] = pickle.dumps(one, protocol=5)
                else:
                    yield [(i, one)]

    for i, described in describe(beyond_block(), pool, stage=STAGE):
        packed[i] = pickle.dumps(described, protocol=5)
    columns = {
        "shard": pa.array([shard] * len(packed), pa.int32()),
        "position": pa.array(sorted(packed), pa.int32()),
        "image": pa.array([packed[i] for i in sorted(packed)], pa.large_binary()),
    }
    return pa.table(columns)


def _describe_packed(block: pa.Table, pool: HelperPool) -> Iterator[tuple[int, Described]]:
    finished: list[tuple[int, Described]] = []

    def predicted() -> Iterator[list[tuple[int, Predicted]]]:
        for position, image in zip(block["position"].to_pylist(), block["image"], strict=True):
            one = pickle.loads(image.as_buffer())
            if isinstance(one, Described):
                finished.append((position, one))
            else:
                yield [(position, one)]

    yield from describe(predicted(), pool, stage=STAGE)
    yield from finished


def helper_of_task(kind: RunKind) -> HelperPool:
    """Return the helper process of this process's tasks; it lives as long as this process."""
    from ray import cloudpickle

    return _helper_of_task(cloudpickle.dumps(kind))


@functools.lru_cache(maxsize=1)
def _helper_of_task(kind: bytes) -> HelperPool:
    return start_helpers(pickle.loads(kind), 1, threads=1, keeps=allocator.BATCH_BYTES)
