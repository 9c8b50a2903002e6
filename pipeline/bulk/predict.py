"""The predictor actors: the number of a shard goes in, and its rows are written.

An actor's own process only forms batches and computes them. Its helper processes fetch, decode, and compute the columns
of the rows. PyTorch is imported by the kind's predictor, in the actor: the driver, which names this class, needs none.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.bulk.archives.member import MemberError
from pipeline.bulk.batch_size import agreed_batch_pixels
from pipeline.bulk.describe import describe
from pipeline.bulk.fetch import Failure, Fetched, Wanted, read_tables
from pipeline.bulk.image_worker import Predicted, start_helpers
from pipeline.bulk.kind import RunKind
from pipeline.bulk.loader import PIXELS_AHEAD, Loader
from pipeline.bulk.plan import PlanReader
from pipeline.bulk.quarantine import Quarantine
from pipeline.bulk.refine import pack
from pipeline.bulk.write import ShardWriter
from pipeline.data.formats import ImageError
from pipeline.errors import UserError
from pipeline.predict.batches import Batches

# If none of at least so many images in a shard can be fetched, the store fails, not the images.
TOO_MANY_TO_BE_CHANCE = 4
# Classes of errors in fetching that are not the store's.
OWN_FAULTS = {error.__name__ for error in (FileNotFoundError, ImageError, MemberError, storage.SpecialFileError)}

Batch = list[tuple[int, Predicted]]  # positions in the shard, and the images


class ShardPredictor:
    """Predicts shards. Ray calls it from several threads: one shard is loaded or written while another is computed.

    Args:
        kind: Kind of the run.
        plan: Plan of the run.
        quarantine: Marks of the run.
        writer: Writes the rows, unless tasks do that.
        run: Folder of the run.
        helpers: Number of helper processes.
    """

    def __init__(
        self,
        *,
        kind: RunKind,
        plan: PlanReader,
        quarantine: Quarantine,
        writer: ShardWriter,
        run: str,
        helpers: int,
    ):
        self._pool = start_helpers(kind, helpers)  # they start while the model is loaded
        self._loader = Loader(self._pool)
        self._kind = kind
        self._plan = plan
        self._quarantine = quarantine
        self._writer = writer
        self._predictor = kind.load_predictor(plan.images)
        self._predictor.batch_pixels = kind.config.batch_pixels or agreed_batch_pixels(run, self._predictor)
        self._computing = threading.BoundedSemaphore(self._predictor.streams)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Compute one shard; return what `ShardWriter.write` does, or the images packed for a `RefiningWriter`."""
        shard = int(batch["shard"][0])
        images = self._plan.shard(shard)
        suspects = self._quarantine.begin(shard)
        wanted = read_tables(images)
        batches = self._predict(wanted) if suspects is None else self._one_by_one(shard, wanted, suspects)
        if self._kind.refines:
            return pack(shard, batches, self._pool)
        return self._writer.write(shard, images, describe(batches, self._pool, stage="describe"))

    def close(self) -> None:
        """End the helper processes, which otherwise end with this process."""
        self._pool.close()

    def _predict(self, wanted: list[Wanted]) -> Iterator[Batch]:
        """Fetch and predict images, and yield them in the batches in which they were computed."""
        batches = Batches(max_pixels=self._predictor.batch_pixels, max_waiting=PIXELS_AHEAD)
        waiting: dict[int, Fetched] = {}
        lost = []
        for i, fetched in enumerate(self._loader.load(wanted)):
            if fetched.prepared is None:
                lost.append(fetched.failure)
                yield [(i, Predicted(fetched, None, None))]
                continue
            waiting[i] = fetched
            for members in batches.add(i, fetched.prepared.shape):
                yield self._compute(members, waiting)
        _raise_if_store_failed(wanted, lost)
        for members in batches.rest():
            yield self._compute(members, waiting)

    def _compute(self, members: list[int], waiting: dict[int, Fetched]) -> Batch:
        """Compute a batch; if that fails, find out which of its images spoils it."""
        images = [waiting.pop(i) for i in members]
        try:
            predicted = self._forward(images)
        except Exception:
            predicted = []
            for image in images:
                try:
                    predicted += self._forward([image])
                except Exception as error:  # whatever it is, it belongs to this image
                    failed = replace(image, prepared=None, failure=Failure.of("predict", error))
                    predicted.append(Predicted(failed, None, None))
        return list(zip(members, predicted, strict=True))

    def _forward(self, images: list[Fetched]) -> list[Predicted]:
        prepared = [image.prepared for image in images if image.prepared is not None]
        with self._computing:
            start = time.perf_counter()
            results = self._predictor(prepared, [image.truth for image in images])
            each = 1000 * (time.perf_counter() - start) / len(images)
        return [Predicted(replace(image, prepared=None), r, each) for image, r in zip(images, results, strict=True)]

    def _one_by_one(self, shard: int, wanted: list[Wanted], suspects: dict[int, int]) -> Iterator[Batch]:
        """Predict a shard that has ended its process before, image by image, without the images that did it."""
        for i, one in enumerate(wanted):
            if self._quarantine.convicted(suspects.get(i, 0)):
                failure = Failure.death("predict", "out of memory, or a crash in a library")
                yield [(i, Predicted(Fetched(one.image["image_id"], one.image["truth"], failure), None, None))]
                continue
            with self._quarantine.suspicion(shard, i):
                for batch in self._predict([one]):
                    yield [(i, predicted) for _, predicted in batch]


def _raise_if_store_failed(wanted: list[Wanted], lost: list[Failure | None]) -> None:
    failures = [f for f in lost if f is not None and f.stage == "fetch" and f.error_class not in OWN_FAULTS]
    if len(failures) == len(wanted) >= TOO_MANY_TO_BE_CHANCE:
        raise UserError(
            f"none of the {len(wanted)} images of a shard can be fetched: "
            f"{storage.redact(wanted[0].image['uri'])}: {failures[0].message}. When the store answers again, the same "
            "command resumes the run"
        )
