"""The predictor actors: a shard's number in, its images segmented out."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.bulk.config import SegmentConfig
from pipeline.bulk.fetch import Failure, Fetched, fetch_shard
from pipeline.bulk.plan import read_plan
from pipeline.bulk.quarantine import Quarantine
from pipeline.bulk.schema import PREDICTED
from pipeline.bulk.shards import shard_of
from pipeline.bundle import load_bundle
from pipeline.images import from_upright
from pipeline.inference import Prediction, Segmenter, micro_batches, pick_device


class Predictor:
    """Segments shards. Ray calls it from two threads: one shard is fetched while the other is computed.

    Args:
        config: of the run.
        run: folder of the run.
    """

    def __init__(self, *, config: SegmentConfig, run: str):
        torch.set_num_threads(config.scaling.cpus_per_actor)
        model, card = load_bundle(config.model)
        self._segmenter = Segmenter(
            model,
            preprocessing=card.preprocessing,
            device=pick_device(),
            dtype=config.dtype,
            instances=config.instances,
            keep_scores=config.crf,
        )
        self._config = config
        self._plan = read_plan(run)
        self._pool = ThreadPoolExecutor(config.scaling.fetch_threads)
        self._computing = threading.Lock()
        self._quarantine = Quarantine(run)

    def __call__(self, batch: dict[str, Any]) -> pa.Table:
        (shard,) = batch["shard"]
        images, first = shard_of(self._plan, int(shard))
        suspects = self._quarantine.begin(int(shard))
        if suspects is None:
            fetched = fetch_shard(images, self._pool, max_pixels=self._config.max_image_pixels)
            with self._computing:
                predictions = self._predict(fetched)
        else:
            fetched, predictions = self._one_by_one(int(shard), images, suspects)
        rows = [
            _row(image, fetched[i], predictions.get(i)) | {"shard": int(shard), "position": first + i}
            for i, image in enumerate(images)
        ]
        return pa.Table.from_pylist(rows, schema=PREDICTED)

    def _predict(self, fetched: list[Fetched]) -> dict[int, tuple[Prediction, float]]:
        """Position -> prediction and milliseconds, of all images that can be segmented; the others fail."""
        usable = [i for i, f in enumerate(fetched) if f.pixels is not None]
        shapes = [fetched[i].pixels.shape for i in usable]  # type: ignore[union-attr]
        predictions: dict[int, tuple[Prediction, float]] = {}
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

    def _timed(self, members: list[int], fetched: list[Fetched]) -> dict[int, tuple[Prediction, float]]:
        start = time.perf_counter()
        results = self._segmenter([fetched[i].pixels for i in members])  # type: ignore[misc]
        each = 1000 * (time.perf_counter() - start) / len(members)
        return {i: (result, each) for i, result in zip(members, results, strict=True)}

    def _one_by_one(
        self, shard: int, images: list[dict[str, Any]], suspects: dict[int, int]
    ) -> tuple[list[Fetched], dict[int, tuple[Prediction, float]]]:
        """A shard that has killed its process before: image by image, leaving out the ones that did it."""
        fetched: list[Fetched] = []
        predictions: dict[int, tuple[Prediction, float]] = {}
        for i, image in enumerate(images):
            if self._quarantine.convicted(suspects.get(i, 0)):
                message = "processing this image ended the process (out of memory, or a crash in a library)"
                fetched.append(Fetched(failure=Failure("predict", "ProcessDied", message)))
                continue
            with self._quarantine.suspicion(shard, i), self._computing:
                (one,) = fetch_shard([image], self._pool, max_pixels=self._config.max_image_pixels)
                found = self._predict([one])
            fetched.append(one)
            if found:
                predictions[i] = found[0]
        return fetched, predictions


def _row(image: dict[str, Any], fetched: Fetched, predicted: tuple[Prediction, float] | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image_id": image["image_id"],
        "width": fetched.width,
        "height": fetched.height,
        "sha256": fetched.sha256,
        "t_fetch_ms": fetched.fetch_ms,
        "t_decode_ms": fetched.decode_ms,
    }
    if fetched.failure is not None:
        failure = fetched.failure
        return row | {
            "error_stage": failure.stage,
            "error_class": failure.error_class,
            "error_message": failure.message,
        }
    assert predicted is not None
    prediction, milliseconds = predicted
    labels = np.ascontiguousarray(from_upright(prediction.labels, fetched.orientation))
    if prediction.scores is not None:
        assert fetched.pixels is not None
        row |= {
            "orientation": fetched.orientation,
            "pixels": fetched.pixels.tobytes(),
            "scores": prediction.scores.tobytes(),
            "score_shape": prediction.scores.shape,
            "stride": prediction.stride,
        }
    return row | {
        "labels": labels.tobytes(),
        "label_dtype": labels.dtype.name,
        "mean_confidence": prediction.confidence,
        "mean_entropy": prediction.entropy,
        "t_infer_ms": milliseconds,
    }
