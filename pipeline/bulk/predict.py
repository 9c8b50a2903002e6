"""The predictor actors: the number of a shard goes in, its predicted images come out.

PyTorch is imported by the kind's predictor, in the actor: the driver, which names this class, needs none.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline.bulk.fetch import Failure, Fetched, fetch_shard
from pipeline.bulk.kind import RunKind
from pipeline.bulk.plan import PlanReader
from pipeline.bulk.quarantine import Quarantine
from pipeline.predict.batches import micro_batches

Predictions = dict[int, tuple[Any, float]]  # position in the shard -> result and milliseconds


class ShardPredictor:
    """Predicts shards. Ray calls it from two threads: one shard is fetched while the other is computed.

    Args:
        kind: Kind of the run.
        plan: Plan of the run.
        quarantine: Marks of the run.
    """

    def __init__(self, *, kind: RunKind, plan: PlanReader, quarantine: Quarantine):
        self._predictor = kind.load_predictor()
        self._schema = kind.predicted
        self._config = kind.config
        self._plan = plan
        self._pool = ThreadPoolExecutor(kind.config.scaling.fetch_threads)
        self._computing = threading.Lock()
        self._quarantine = quarantine

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        """Predict the images of one shard; the result has one row per image, with the kind's `predicted` schema."""
        shard = int(batch["shard"][0])
        images, first = self._plan.shard(shard)
        suspects = self._quarantine.begin(shard)
        if suspects is None:
            fetched = self._fetch(images)
            with self._computing:
                predictions = self._predict(fetched)
        else:
            fetched, predictions = self._one_by_one(shard, images, suspects)
        rows = [_row(image, fetched[i]) | {"shard": shard, "position": first + i} for i, image in enumerate(images)]
        for i, (result, milliseconds) in predictions.items():
            rows[i] |= self._predictor.columns(fetched[i], result) | {"t_infer_ms": milliseconds}
        return pa.Table.from_pylist(rows, schema=self._schema)

    def _fetch(self, images: list[dict[str, Any]]) -> list[Fetched]:
        max_pixels = self._config.max_image_pixels
        return fetch_shard(images, self._pool, max_pixels=max_pixels, prepare=self._predictor.prepare)

    def _predict(self, fetched: list[Fetched]) -> Predictions:
        """Predict all images that can be predicted; the others get a failure."""
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
        results = self._predictor(prepared, [fetched[i].truth for i in members])  # type: ignore[arg-type]
        each = 1000 * (time.perf_counter() - start) / len(members)
        return {i: (result, each) for i, result in zip(members, results, strict=True)}

    def _one_by_one(
        self, shard: int, images: list[dict[str, Any]], suspects: dict[int, int]
    ) -> tuple[list[Fetched], Predictions]:
        """Predict a shard that has ended its process before, image by image, without the images that did it."""
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
    return row if fetched.failure is None else row | fetched.failure.columns
