"""The CRF stage: CPU tasks beside the predictors; a predicted shard goes in, the shard with refined masks comes out."""

import time
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.bulk.fetch import Failure
from pipeline.bulk.schema import PREDICTED
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.crf.score_map import crf_of_scores
from pipeline.crf.warm import warm
from pipeline.data.images import from_upright

# Columns for the writer: the refined labels and, of the same dtype, the network's; pixels and scores end here.
REFINED = pa.schema(
    [
        *PREDICTED,
        ("labels", pa.large_binary()),
        ("label_dtype", pa.string()),
        ("mean_confidence", pa.float32()),
        ("mean_entropy", pa.float32()),
        ("raw_labels", pa.large_binary()),
        ("crf_changed_px", pa.int32()),
        ("t_crf_ms", pa.float32()),
    ]
)


class Refiner:
    """Refines the masks of a shard by a dense CRF.

    Args:
        config: Configuration of the run.
        num_classes: Classes of the model.
    """

    def __init__(self, config: SegmentConfig, *, num_classes: int):
        self._config = config
        self._num_classes = num_classes

    def __call__(self, block: pa.Table) -> pa.Table:
        """Refine a block with the schema `SEGMENTED`; the result has the schema `REFINED`."""
        warm(classes=self._num_classes, params=self._config.crf_params, mode=self._config.crf_mode)
        rows = [row if row["error_stage"] is not None else self._refined(row) for row in block.to_pylist()]
        return pa.Table.from_pylist(rows, schema=REFINED)

    def _refined(self, row: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        turned = row["orientation"] >= 5
        size = (row["width"], row["height"]) if turned else (row["height"], row["width"])
        pixels = np.frombuffer(row["pixels"], np.uint8).reshape(*size, 3)
        scores = np.frombuffer(row["scores"], np.float16).reshape(row["score_shape"])
        try:
            refined = crf_of_scores(
                pixels, scores, stride=row["stride"], params=self._config.crf_params, mode=self._config.crf_mode
            )
        except Exception as error:  # whatever it is, it belongs to this image
            return row | Failure("crf", type(error).__name__, str(error)[:500]).columns
        labels = from_upright(refined.labels, row["orientation"]).astype(row["label_dtype"])
        before = np.frombuffer(row["labels"], row["label_dtype"]).reshape(labels.shape)
        return row | {
            "labels": labels.tobytes(),
            "raw_labels": row["labels"],
            "crf_changed_px": int(np.count_nonzero(labels != before)),
            "t_crf_ms": 1000 * (time.perf_counter() - start),
        }
