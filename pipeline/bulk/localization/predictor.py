"""The classifier in a predictor's process: probabilities, and raw maps of the classes that matter."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.bulk.localization.config import LocalizeConfig
from pipeline.bulk.localization.located import Located
from pipeline.bulk.localization.truth import ImageTruth
from pipeline.bundle import load_bundle
from pipeline.predict.batch_size import CPU_PIXELS, measure_batch_pixels
from pipeline.predict.classifier import Classification, Classifier
from pipeline.predict.cpu_network import suit_cpu
from pipeline.predict.device import device_name, free_memory, is_lost, own_stream, pick_device, set_threads, streams


class LocalizationPredictor:
    """Classifies images and keeps the maps; see `kind.ImagePredictor`.

    Args:
        config: Configuration of the run.
    """

    def __init__(self, config: LocalizeConfig):
        device = pick_device()
        set_threads(device, config.scaling.cpus_per_actor)
        model, card = load_bundle(config.model)
        suit_cpu(model, device)
        assert card.classifier is not None
        self._config = config
        self._input = card.classifier
        self._classifier = Classifier(
            model,
            classifier_input=card.classifier,
            preprocessing=card.preprocessing,
            device=device,
            dtype=config.dtype,
            scales=config.maps.scales,
            flip=config.maps.flip,
        )
        self.device_name = device_name(device)
        self.streams = streams(device)
        self.batch_pixels = CPU_PIXELS

    def measure_batch_pixels(self) -> int:
        """Measure batches of the classifier's input size."""
        return measure_batch_pixels(self._classifier, self._classifier.device, size=self._input.size)

    def free_memory(self) -> None:
        """Return the device's memory that no tensor uses."""
        free_memory(self._classifier.device)

    def is_lost(self) -> bool:
        """Tell whether the device has failed for good."""
        return is_lost(self._classifier.device)

    def __call__(self, images: Sequence[NDArray[np.uint8]], truths: Sequence[str | None]) -> list[Located]:
        """Classify prepared images; classes that `truths` name have maps too."""
        with own_stream(self._classifier.device):
            results = self._classifier(images)
        return [self._located(result, truth) for result, truth in zip(results, truths, strict=True)]

    def _located(self, result: Classification, truth: str | None) -> Located:
        found = found_classes(result.probabilities, self._config, multi_label=self._input.multi_label)
        known = [k for k in ImageTruth.from_json(truth).classes if k not in found]
        return Located(result.probabilities, found + known, len(found), result.maps(found + known))


def found_classes(probabilities: NDArray, config: LocalizeConfig, *, multi_label: bool) -> list[int]:
    """Return the classes that count as found in an image, the most probable first.

    Args:
        probabilities: float [classes].
        config: Its `min_probability` and `top` decide.
        multi_label: Whether each class has a probability of its own; it decides the defaults.
    """
    least = config.min_probability if config.min_probability is not None else (0.5 if multi_label else 0.0)
    most = config.top if config.top is not None else (len(probabilities) if multi_label else 1)
    order = np.argsort(-probabilities, kind="stable")[:most]
    return [int(k) for k in order if probabilities[k] >= least]
