"""The classifier in a predictor's process: probabilities, and raw maps of the classes that matter."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.bulk.fetch import Fetched
from pipeline.bulk.localization.config import LocalizeConfig
from pipeline.bulk.localization.truth import ImageTruth
from pipeline.bundle import load_bundle
from pipeline.data.images import changed_view, resize
from pipeline.predict.classifier import Classification, Classifier
from pipeline.predict.device import pick_device


class Located(NamedTuple):
    """The result for an image.

    Attributes:
        probabilities: float32 [classes].
        classes: Classes that have a map: those found, the most probable first, then those known to be there.
        found: How many of them were found.
        maps: Their raw maps, float32 [n, h, w], of the upright image.
    """

    probabilities: NDArray[np.float32]
    classes: list[int]
    found: int
    maps: NDArray[np.float32]


class LocalizationPredictor:
    """Classifies images and keeps the maps; see `kind.ImagePredictor`.

    Args:
        config: Configuration of the run.
    """

    def __init__(self, config: LocalizeConfig):
        torch.set_num_threads(config.scaling.cpus_per_actor)
        model, card = load_bundle(config.model)
        assert card.classifier is not None
        self._config = config
        self._input = card.classifier
        self._classifier = Classifier(
            model,
            classifier_input=card.classifier,
            preprocessing=card.preprocessing,
            device=pick_device(),
            dtype=config.dtype,
            scales=config.maps.scales,
            flip=config.maps.flip,
        )

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the configured view of an image at the size of the classifier's input."""
        return resize(changed_view(pixels, self._config.view), self._input.size)

    def __call__(self, images: Sequence[NDArray[np.uint8]], truths: Sequence[str | None]) -> list[Located]:
        """Classify prepared images; classes that `truths` name have maps too."""
        results = self._classifier(images)
        return [self._located(result, truth) for result, truth in zip(results, truths, strict=True)]

    def _located(self, result: Classification, truth: str | None) -> Located:
        found = found_classes(result.probabilities, self._config, multi_label=self._input.multi_label)
        known = [k for k in ImageTruth.from_json(truth).classes if k not in found]
        return Located(result.probabilities, found + known, len(found), result.maps(found + known))

    def columns(self, fetched: Fetched, result: Located) -> dict[str, Any]:
        """Return a result as columns of `run.LOCALIZED`."""
        row = {
            "probabilities": result.probabilities,
            "classes": result.classes,
            "found": result.found,
            "maps": result.maps.tobytes(),
            "map_shape": result.maps.shape,
        }
        if self._config.mask == "crf":
            assert fetched.pixels is not None
            row["pixels"] = fetched.pixels.tobytes()
        return row


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
