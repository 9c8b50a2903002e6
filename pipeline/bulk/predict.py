"""The predictor actors: the number of a shard goes in, and its rows are written.

An actor's own process only forms batches and computes them. Its helper processes fetch, decode, and compute the columns
of the rows. PyTorch is imported by the kind's predictor, in the actor: the driver, which names this class, needs none.
"""

import gc
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipeline import allocator, retry
from pipeline.bulk.attempts import HOPELESS, attempt
from pipeline.bulk.batch_size import agreed_batch_pixels
from pipeline.bulk.describe import describe
from pipeline.bulk.fetch import Failure, Fetched, Wanted, read_tables
from pipeline.bulk.forward import LOST, ForwardWorker, forward, load, pixels_of, seconds_for
from pipeline.bulk.helper_process import Death
from pipeline.bulk.helpers import HelperPool
from pipeline.bulk.image_worker import Predicted, start_helpers
from pipeline.bulk.kind import RunKind
from pipeline.bulk.loader import PIXELS_AHEAD, Loader
from pipeline.bulk.plan import PlanReader
from pipeline.bulk.refine import pack
from pipeline.bulk.room import Room
from pipeline.bulk.waiting import Waiting
from pipeline.bulk.write import ShardWriter, undone
from pipeline.errors import IncompleteError
from pipeline.predict.batches import Batches

LOST_CAUSE = f"exit code {LOST}"
MOST_LOST = 3  # images in a row with which the device fails: then it is the device, and not the image
HUNG = 124  # exit code of a predictor that ends itself because a forward pass does not

Batch = list[tuple[int, Predicted]]  # positions in the shard, and the images
Forward = Callable[[list[Fetched]], list[Predicted]]


class ShardPredictor:
    """Predicts shards. Ray calls it from several threads: one shard is loaded or written while another is computed.

    Args:
        kind: Kind of the run.
        plan: Plan of the run.
        writer: Writes the rows, unless tasks do that.
        run: Folder of the run.
        driver: Name of the driver.
        helpers: Number of helper processes.
        use_gpu: Whether Ray has assigned a GPU.
    """

    def __init__(
        self,
        *,
        kind: RunKind,
        plan: PlanReader,
        writer: ShardWriter,
        run: str,
        driver: str,
        helpers: int,
        use_gpu: bool,
    ):
        retry.be_patient(kind.config.store.patience)
        # They start while the model is loaded.
        self._pool = start_helpers(kind, helpers, planned=plan.planned, keeps=allocator.PICTURE_BYTES)
        self._loader = Loader(self._pool)
        self._kind = kind
        self._plan = plan
        self._writer = writer
        self._run = run
        self._driver = driver
        self._use_gpu = use_gpu
        self._predictor = load(kind, plan.images, use_gpu=use_gpu)
        self._predictor.batch_pixels = kind.config.batch_pixels or agreed_batch_pixels(run, self._predictor)
        # What has been loaded stays. Without this, a collection of garbage stops all threads for up to 0.7 s.
        gc.collect()
        gc.freeze()
        # Their own threads compute the batches: a GPU's handles, streams and memory belong to a thread.
        self._threads = ThreadPoolExecutor(self._predictor.streams, thread_name_prefix="compute")
        self._room = Room(self._predictor.streams)
        self._guarded: HelperPool | None = None
        self._lost_in_a_row = 0  # images, each of which has ended a guarded process because the device failed

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Compute one shard; return what `ShardWriter.write` does, or the images packed for a `RefiningWriter`."""
        shard = int(batch["shard"][0])
        images: list[dict[str, Any]] = []
        try:
            images = self._plan.shard(shard)
            with attempt(self._run, shard, self._driver) as deaths:
                if deaths.now >= HOPELESS:
                    raise IncompleteError(
                        f"{deaths.now} processes have ended while they computed shard {shard}, and no image is the "
                        "reason; is there enough memory for so many predictors (--scaling.actors)?"
                    )
                compute = self._forward_guarded if deaths.call_for_care else self._forward
                wanted = read_tables(images, give_up=self._kind.config.store.give_up)
                batches = self._predict(wanted, compute)
                if self._kind.refines:
                    return pack(shard, batches, self._pool)
                return self._writer.write(shard, images, describe(batches, self._pool, stage="describe"))
        except IncompleteError as error:
            return undone(shard, len(images), str(error))

    def close(self) -> None:
        """End the helper processes, which otherwise end with this process."""
        self._threads.shutdown()
        self._pool.close()
        if self._guarded is not None:
            self._guarded.close()

    def _predict(self, wanted: list[Wanted], compute: Forward) -> Iterator[Batch]:
        """Fetch and predict images, and yield them in the batches in which they were computed."""
        batches = Batches(max_pixels=self._predictor.batch_pixels, max_waiting=PIXELS_AHEAD)
        waiting = Waiting(patience=2 * self._predictor.batch_pixels)

        def predicted(members: list[int]) -> Batch:
            return list(zip(members, compute([waiting.take(i) for i in members]), strict=True))

        for i, fetched in enumerate(self._loader.load(wanted)):
            if fetched.prepared is None:
                yield [(i, Predicted(fetched, None, None))]
                continue
            waiting.add(i, fetched)
            for members in batches.add(i, fetched.prepared.shape):
                yield predicted(members)
        for members in batches.rest():
            yield predicted(members)

    def _forward(self, images: list[Fetched]) -> list[Predicted]:
        # A large image has the room of several batches: else it would depend on those beside it whether it fits.
        room = self._room.take(math.ceil(pixels_of(images) / self._predictor.batch_pixels))
        with room, _ended_after(seconds_for(images, self._kind.seconds_per_image)):
            return self._threads.submit(forward, self._predictor, images).result()

    def _forward_guarded(self, images: list[Fetched]) -> list[Predicted]:
        """Compute the same batch in a process of its own; an image that ends that process has a failure."""
        with self._room.take_all():
            self._predictor.free_memory()
            if self._guarded is None:
                worker = ForwardWorker(
                    self._kind,
                    images=self._plan.images,
                    batch_pixels=self._predictor.batch_pixels,
                    use_gpu=self._use_gpu,
                )
                self._guarded = HelperPool(worker, processes=1, threads=1)
            seconds = seconds_for(images, self._kind.seconds_per_image)
            answers = self._guarded.submit("forward", images, seconds=seconds).result()
            for answer in answers:
                lost = isinstance(answer, Death) and answer.cause == LOST_CAUSE
                self._lost_in_a_row = self._lost_in_a_row + 1 if lost else 0
            if self._lost_in_a_row >= MOST_LOST:
                raise IncompleteError(f"the device fails with one image after the other ({LOST_CAUSE})")
        return [_or_failure(image, answer) for image, answer in zip(images, answers, strict=True)]


def _or_failure(image: Fetched, answer: Predicted | Death) -> Predicted:
    if isinstance(answer, Death):
        return Predicted(replace(image, prepared=None, failure=Failure.death("predict", answer.cause)), None, None)
    return answer


@contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End this process if the body does not end; its shards are computed again, guarded."""

    def end() -> None:
        print(f"a forward pass has not ended within {seconds:.0f} s: this process ends", file=sys.stderr, flush=True)
        os._exit(HUNG)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
