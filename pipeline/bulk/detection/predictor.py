"""The detector in a predictor's process."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.bulk.detection.config import DetectConfig
from pipeline.bulk.detection.prepared import Detected, PreparedImage
from pipeline.bundle import load_bundle
from pipeline.models.detection.boxes import Selection
from pipeline.models.detection.detector import DetectionNetwork
from pipeline.predict.batch_size import CPU_PIXELS, measure_batch_pixels
from pipeline.predict.cpu_network import suit_cpu
from pipeline.predict.detector import Detector
from pipeline.predict.device import device_name, free_memory, is_lost, own_stream, pick_device, set_threads, streams

TYPICAL_PROPOSALS = 1000  # of an image, where the size of a batch is measured


class DetectionPredictor:
    """Finds objects in images; see `kind.ImagePredictor`.

    Args:
        config: Configuration of the run.
    """

    def __init__(self, config: DetectConfig):
        device = pick_device()
        set_threads(device, config.scaling.cpus_per_actor)
        model, card = load_bundle(config.model)
        suit_cpu(model, device)
        assert card.detector is not None
        assert isinstance(model, DetectionNetwork)
        model.loosen(score=config.min_score, iou=config.nms_iou, limit=config.max_detections)
        self._detector = Detector(
            model,
            detector_input=card.detector,
            preprocessing=card.preprocessing,
            device=device,
            dtype=config.dtype,
            selection=changed_selection(model.default_selection, config),
        )
        self.device_name = device_name(device)
        self.streams = streams(device)
        self.batch_pixels = CPU_PIXELS

    def measure_batch_pixels(self) -> int:
        """Measure batches of images of 512x512 pixels, with random proposals if the detector takes any."""
        rng = np.random.default_rng(0)
        corners = np.sort(rng.uniform(0, 512, (TYPICAL_PROPOSALS, 2, 2)), axis=1).astype(np.float32)
        boxes = corners.reshape(-1, 4) if self._detector.detector_input.proposals else None

        def compute(images: Sequence[NDArray[np.uint8]]) -> Any:
            return self._detector(images, None if boxes is None else [boxes] * len(images))

        return measure_batch_pixels(compute, self._detector.device)

    def free_memory(self) -> None:
        """Return the device's memory that no tensor uses."""
        free_memory(self._detector.device)

    def is_lost(self) -> bool:
        """Tell whether the device has failed for good."""
        return is_lost(self._detector.device)

    def __call__(self, images: Sequence[PreparedImage], truths: Sequence[str | None]) -> list[Detected]:
        """Find the objects in prepared images; the proposals of images with true boxes are handed on."""
        proposals = [image.proposals for image in images if image.proposals is not None]
        with own_stream(self._detector.device):
            found = self._detector([image.pixels for image in images], proposals or None)
        return [
            Detected(
                (image.shape[0], image.shape[1]),
                *one,
                None if image.proposals is None else len(image.proposals),
                image.propose_ms,
                None if truth is None else image.proposals,
            )
            for image, truth, one in zip(images, truths, found, strict=True)
        ]


def changed_selection(own: Selection, config: DetectConfig) -> Selection:
    """Return a detector's own choice of the detections with what the configuration changes of it."""
    return Selection(
        own.score if config.min_score is None else config.min_score,
        own.iou if config.nms_iou is None else config.nms_iou,
        own.limit if config.max_detections is None else config.max_detections,
    )
