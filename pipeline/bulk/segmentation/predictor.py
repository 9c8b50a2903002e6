"""The segmentation network in a predictor's process."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.bulk.fetch import Fetched
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bundle import load_bundle
from pipeline.data.images import from_upright
from pipeline.predict.device import pick_device
from pipeline.predict.segmenter import Prediction, Segmenter


class SegmentationPredictor:
    """Segments images; see `kind.ImagePredictor`.

    Args:
        config: Configuration of the run.
    """

    def __init__(self, config: SegmentConfig):
        torch.set_num_threads(config.scaling.cpus_per_actor)
        model, card = load_bundle(config.model)
        self._segmenter = Segmenter(
            model,
            preprocessing=card.preprocessing,
            device=pick_device(),
            dtype=config.dtype,
            instances=config.instances,
            windows=config.windows,
            tta=config.tta,
            batch_pixels=config.batch_pixels,
            keep_scores=config.crf,
        )

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the pixels as they are."""
        return pixels

    def __call__(self, images: Sequence[NDArray[np.uint8]], truths: Sequence[str | None]) -> list[Prediction]:
        """Segment images of one shape; `truths` are not used."""
        return self._segmenter(images)

    def columns(self, fetched: Fetched, result: Prediction) -> dict[str, Any]:
        """Return a result as columns of `run.SEGMENTED`."""
        labels = np.ascontiguousarray(from_upright(result.labels, fetched.orientation))
        row = {
            "labels": labels.tobytes(),
            "label_dtype": labels.dtype.name,
            "mean_confidence": result.confidence,
            "mean_entropy": result.entropy,
        }
        if result.scores is not None:
            assert fetched.pixels is not None
            row |= {
                "pixels": fetched.pixels.tobytes(),
                "scores": result.scores.tobytes(),
                "score_shape": result.scores.shape,
                "stride": result.stride,
            }
        return row
