"""The settings of a dense CRF that a search tries, coarse to fine. Knows neither Ray nor storage.

DeepLab v1 (section 5.1) searches w1, sigma_alpha and sigma_beta, with w2 and sigma_gamma fixed at 3.

A CRF removes thin classes, because few of their neighbours agree with them. A factor of a class's compatibility
multiplies what its neighbours say for it, so one above 1 keeps the class where it is seen. The confusions before and
after the CRF tell which classes need one.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.bulk.segmentation.config import TuneConfig
from pipeline.crf.params import CRFParams
from pipeline.metrics.segmentation import Confusion


class Trial(NamedTuple):
    """A setting and its counts.

    Attributes:
        round: Round of the search: none, default, coarse, fine, class or combined.
        params: Parameters of the CRF; None for no CRF.
        counts: Confusion over all images.
    """

    round: str
    params: CRFParams | None
    counts: Confusion

    @property
    def miou(self) -> float:
        """Mean IoU of the setting."""
        return self.counts.scores.miou


MOST_CLASSES = 10  # that get factors: those that lose most, so that the search ends for 150 classes too

# Returns the trials of settings, in order; the keys are the names of the rounds.
TrySettings = Callable[[Mapping[str, Sequence[CRFParams | None]]], list[Trial]]


def search(config: TuneConfig, try_settings: TrySettings) -> list[Trial]:
    """Return the trials; the first is without a CRF, the second has the default parameters."""
    default = config.crf_params
    grid = itertools.product(config.w1, config.sigma_alpha, config.sigma_beta)
    trials = try_settings({"none": [None], "default": [default], "coarse": [_with(default, *at) for at in grid]})
    for i in range(config.fine_rounds):
        trials += try_settings({"fine": list(_around(best_params(trials)[1], factor=1.5 ** (0.5**i)))})
    if config.class_factors and default.compatibility is None:
        trials += _search_classes(config, trials, try_settings)
    return trials


def best_params(trials: Sequence[Trial]) -> tuple[Trial, CRFParams]:
    """Return the best trial with a CRF and its parameters, even if no CRF is better."""
    pairs = [(trial, trial.params) for trial in trials if trial.params is not None]
    return max(pairs, key=lambda pair: pair[0].miou)


def _with(params: CRFParams, w1: float, sigma_alpha: float, sigma_beta: float) -> CRFParams:
    return params.model_copy(update={"w1": w1, "sigma_alpha": sigma_alpha, "sigma_beta": sigma_beta})


def _around(params: CRFParams, *, factor: float) -> Iterator[CRFParams]:
    """Yield the settings a factor away in each of the three parameters."""
    for powers in itertools.product((-1, 0, 1), repeat=3):
        if any(powers):
            values = (params.w1, params.sigma_alpha, params.sigma_beta)
            yield _with(params, *(round(v * factor**p, 3) for v, p in zip(values, powers, strict=True)))


def _search_classes(config: TuneConfig, trials: Sequence[Trial], try_settings: TrySettings) -> list[Trial]:
    """Try factors of the classes that the best setting makes worse, then the best factor of each class together."""
    start, params = best_params(trials)
    classes = len(start.counts.scores.iou)
    gain = start.counts.scores.iou - trials[0].counts.scores.iou  # NaN where one is undefined, which sorts last
    worse = sorted(int(k) for k in np.argsort(gain)[:MOST_CLASSES] if gain[k] < 0)
    tried = [(k, factor) for k in worse for factor in config.class_factors]
    found = try_settings({"class": [_with_factors(params, {k: factor}, classes) for k, factor in tried]})
    best: dict[int, tuple[float, float]] = {}
    for (k, factor), trial in zip(tried, found, strict=True):
        if trial.miou > best.get(k, (start.miou, 1.0))[0]:
            best[k] = (trial.miou, factor)
    if len(best) > 1:
        together = {k: factor for k, (_, factor) in best.items()}
        found += try_settings({"combined": [_with_factors(params, together, classes)]})
    return found


def _with_factors(params: CRFParams, factors: Mapping[int, float], classes: int) -> CRFParams:
    """Return parameters with these factors of classes, and 1 for the others."""
    return params.model_copy(update={"compatibility": tuple(float(factors.get(k, 1.0)) for k in range(classes))})
