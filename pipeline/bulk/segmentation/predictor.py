"""The segmentation network in a predictor's process."""

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bundle import load_bundle
from pipeline.predict.batch_size import CPU_PIXELS, measure_batch_pixels
from pipeline.predict.compiled import worth_compiling
from pipeline.predict.cpu_network import suit_cpu
from pipeline.predict.crf import DeviceCRF
from pipeline.predict.device import device_name, free_memory, is_lost, own_stream, pick_device, set_threads, streams
from pipeline.predict.prediction import Prediction
from pipeline.predict.segmenter import Segmenter


class SegmentationPredictor:
    """Segments images; see `kind.ImagePredictor`.

    Args:
        config: Configuration of the run.
        images: Number of images of the run.
    """

    def __init__(self, config: SegmentConfig, *, images: int):
        device = pick_device()
        set_threads(device, config.scaling.cpus_per_actor)
        model, card = load_bundle(config.model)
        suit_cpu(model, device)
        on_device = config.crf and config.crf_device == "gpu"
        self._segmenter = Segmenter(
            model,
            preprocessing=card.preprocessing,
            device=device,
            dtype=config.dtype,
            instances=config.instances,
            windows=config.windows,
            tta=config.tta,
            keep_scores=config.crf and not on_device,
            crf=DeviceCRF(params=config.crf_params, mode=config.crf_mode) if on_device else None,
            compile=worth_compiling(images, device) if config.compile is None else config.compile,
        )
        self.device_name = device_name(device)
        # A CRF takes much memory, and launching its many operations keeps the host busy.
        self.streams = min(2, streams(device)) if on_device else streams(device)

    @property
    def batch_pixels(self) -> int:
        """Largest number of pixels in a batch, of windows too."""
        return self._segmenter.batch_pixels

    @batch_pixels.setter
    def batch_pixels(self, pixels: int) -> None:
        self._segmenter.batch_pixels = pixels

    def measure_batch_pixels(self) -> int:
        """Measure batches of 512x512 pixels; instance-wise inference computes one image after the other anyway."""
        if self._segmenter.instances.proposals:
            return CPU_PIXELS
        self.batch_pixels = sys.maxsize  # no batch is full, so none is compiled
        return measure_batch_pixels(self._segmenter, self._segmenter.device)

    def free_memory(self) -> None:
        """Return the device's memory that no tensor uses."""
        free_memory(self._segmenter.device)

    def is_lost(self) -> bool:
        """Tell whether the device has failed for good."""
        return is_lost(self._segmenter.device)

    def __call__(self, images: Sequence[NDArray[np.uint8]], truths: Sequence[str | None]) -> list[Prediction]:
        """Segment images of one shape; `truths` are not used."""
        with own_stream(self._segmenter.device):
            return self._segmenter(images)
