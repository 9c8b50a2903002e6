"""The segmentation network in a predictor's process."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bundle import load_bundle
from pipeline.predict.batch_size import measure_batch_pixels
from pipeline.predict.device import device_name, pick_device, set_threads, streams
from pipeline.predict.prediction import Prediction
from pipeline.predict.segmenter import Segmenter


class SegmentationPredictor:
    """Segments images; see `kind.ImagePredictor`.

    Args:
        config: Configuration of the run.
    """

    def __init__(self, config: SegmentConfig):
        device = pick_device()
        set_threads(device, config.scaling.cpus_per_actor)
        model, card = load_bundle(config.model)
        self._segmenter = Segmenter(
            model,
            preprocessing=card.preprocessing,
            device=device,
            dtype=config.dtype,
            instances=config.instances,
            keep_scores=config.crf,
        )
        self.device_name = device_name(device)
        self.streams = streams(device)

    def measure_batch_pixels(self) -> int:
        """Measure batches of 512x512 pixels."""
        return measure_batch_pixels(self._segmenter, self._segmenter.device)

    def __call__(self, images: Sequence[NDArray[np.uint8]], truths: Sequence[str | None]) -> list[Prediction]:
        """Segment images of one shape; `truths` are not used."""
        return self._segmenter(images)
