"""The predictor actors: a shard's number in, its images predicted out."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import torch

from pipeline.bulk.fetch import Failure, Fetched, fetch_shard
from pipeline.bulk.kind import Kind
from pipeline.bulk.plan import read_plan
from pipeline.bulk.quarantine import Quarantine
from pipeline.bulk.shards import shard_of
from pipeline.predict.segmenter import micro_batches

Predictions = dict[int, tuple[Any, float]]  # position -> result and milliseconds


class Predictor:
    """Predicts shards. Ray calls it from two threads: one shard is fetched while the other is computed.

    Args:
        kind: of the run.
        run: folder of the run.
    """

    def __init__(self, *, kind: Kind, run: str):
        torch.set_num_threads(kind.config.scaling.cpus_per_actor)
        self._model = kind.load()
        self._schema = kind.predicted
        self._config = kind.config
        self._plan = read_plan(run)
        self._pool = ThreadPoolExecutor(kind.config.scaling.fetch_threads)
        self._computing = threading.Lock()
        self._quarantine = Quarantine(run)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        (shard,) = batch["shard"]
        images, first = shard_of(self._plan, int(shard))
        suspects = self._quarantine.begin(int(shard))
        if suspects is None:
            fetched = self._fetch(images)
            with self._computing:
                predictions = self._predict(fetched)
        else:
            fetched, predictions = self._one_by_one(int(shard), images, suspects)
        rows = [
            _row(image, fetched[i]) | {"shard": int(shard), "position": first + i} for i, image in enumerate(images)
        ]
        for i, (result, milliseconds) in predictions.items():
            rows[i] |= self._model.columns(fetched[i], result) | {"t_infer_ms": milliseconds}
        return pa.Table.from_pylist(rows, schema=self._schema)

    def _fetch(self, images: list[dict[str, Any]]) -> list[Fetched]:
        return fetch_shard(images, self._pool, max_pixels=self._config.max_image_pixels, prepare=self._model.prepare)

    def _predict(self, fetched: list[Fetched]) -> Predictions:
        """Position -> prediction and milliseconds, of all images that can be predicted; the others fail."""
        usable = [i for i, f in enumerate(fetched) if f.prepared is not None]
        shapes = [fetched[i].prepared.shape for i in usable]  # type: ignore[union-attr]
        predictions: Predictions = {}
        for batch in micro_batches(shapes, max_pixels=self._config.batch_pixels):
            members = [usable[i] for i in batch]
            try:
                predictions |= self._timed(members, fetched)
            except Exception:
                # One image spoils the batch; find out which.
                for i in members:
                    try:
                        predictions |= self._timed([i], fetched)
                    except Exception as error:
                        fetched[i].failure = Failure.of("predict", error)
        return predictions

    def _timed(self, members: list[int], fetched: list[Fetched]) -> Predictions:
        start = time.perf_counter()
        prepared = [fetched[i].prepared for i in members]
        results = self._model(prepared, [fetched[i].truth for i in members])  # type: ignore[arg-type]
        each = 1000 * (time.perf_counter() - start) / len(members)
        return {i: (result, each) for i, result in zip(members, results, strict=True)}

    def _one_by_one(
        self, shard: int, images: list[dict[str, Any]], suspects: dict[int, int]
    ) -> tuple[list[Fetched], Predictions]:
        """A shard that has killed its process before: image by image, leaving out the ones that did it."""
        fetched: list[Fetched] = []
        predictions: Predictions = {}
        for i, image in enumerate(images):
            if self._quarantine.convicted(suspects.get(i, 0)):
                message = "processing this image ended the process (out of memory, or a crash in a library)"
                fetched.append(Fetched(failure=Failure("predict", "ProcessDied", message)))
                continue
            with self._quarantine.suspicion(shard, i), self._computing:
                (one,) = self._fetch([image])
                found = self._predict([one])
            fetched.append(one)
            if found:
                predictions[i] = found[0]
        return fetched, predictions


def _row(image: dict[str, Any], fetched: Fetched) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image_id": image["image_id"],
        "width": fetched.width,
        "height": fetched.height,
        "sha256": fetched.sha256,
        "orientation": fetched.orientation,
        "t_fetch_ms": fetched.fetch_ms,
        "t_decode_ms": fetched.decode_ms,
    }
    if fetched.failure is not None:
        failure = fetched.failure
        row |= {
            "error_stage": failure.stage,
            "error_class": failure.error_class,
            "error_message": failure.message,
        }
    return row
