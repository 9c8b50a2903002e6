"""The search for CRF parameters: what it tries, with counts that are made up as a function of the setting."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from pipeline.bulk.segmentation.config import TuneConfig
from pipeline.bulk.segmentation.crf_search import MOST_CLASSES, Trial, best_params, search
from pipeline.crf.params import CRFParams
from pipeline.metrics.segmentation import Confusion

CLASSES = 4
SMALL = (1, 3)  # classes that a CRF makes worse, the more the smaller their factor
BEST = {1: 2.0, 3: 3.0}


def config(**changes) -> TuneConfig:
    return TuneConfig(model="m", images="i", labels="l", output="o", **changes)


def hits(params: CRFParams | None) -> list[int]:
    """Pixels of each class, of a thousand, that a made-up CRF gets right: best at w1 = 5, and at `BEST` factors."""
    if params is None:
        return [800, 700, 800, 700]
    factors = [f for f in params.compatibility or (1.0,) * CLASSES if not isinstance(f, tuple)]
    right = [900 - 20 * abs(params.w1 - 5) for _ in range(CLASSES)]
    for k in SMALL:
        right[k] = 650 - 20 * abs(params.w1 - 5) - 30 * abs(factors[k] - BEST[k])
    return [round(value) for value in right]


def confusion_of(right: Sequence[int]) -> Confusion:
    """The confusion of classes of a thousand pixels whose other pixels fall to class 0, or to 2 for class 0."""
    matrix = np.zeros((len(right), len(right)), np.int64)
    for k, value in enumerate(right):
        matrix[k, k] = value
        matrix[k, 2 if k == 0 else 0] += 1000 - value
    return Confusion(matrix)


class Tried:
    """Makes up trials, and remembers their settings."""

    def __init__(self):
        self.settings: list[tuple[str, CRFParams | None]] = []

    def __call__(self, rounds: Mapping[str, Sequence[CRFParams | None]]) -> list[Trial]:
        settings = [(name, params) for name, several in rounds.items() for params in several]
        self.settings += settings
        return [Trial(name, params, confusion_of(hits(params))) for name, params in settings]


def test_the_search_goes_from_coarse_to_fine():
    tried = Tried()
    given = config(w1=(3, 5), sigma_alpha=(30,), sigma_beta=(3, 6), fine_rounds=2, class_factors=())
    trials = search(given, tried)
    assert [name for name, _ in tried.settings] == ["none", "default", *["coarse"] * 4, *["fine"] * 52]
    assert best_params(trials)[1].w1 == 5
    centre = [params for name, params in tried.settings if name == "fine"][:26]
    assert {round(params.w1 / 5, 3) for params in centre if params} == {0.667, 1.0, 1.5}


def test_classes_that_the_crf_makes_worse_get_factors_of_their_own():
    tried = Tried()
    trials = search(config(fine_rounds=0, class_factors=(0.5, 2, 3)), tried)
    of_classes = [params.compatibility for name, params in tried.settings if name == "class" and params]
    assert len(of_classes) == len(SMALL) * 3
    assert all(factors[k] == 1 for factors in of_classes if factors for k in range(CLASSES) if k not in SMALL)
    best, params = best_params(trials)
    assert best.round == "combined"
    assert params.compatibility == (1.0, 2.0, 1.0, 3.0)
    assert params.w1 == 5


def test_of_many_classes_those_that_lose_most_get_factors():
    classes = 2 * MOST_CLASSES

    def worse(rounds: Mapping[str, Sequence[CRFParams | None]]) -> list[Trial]:
        right = {True: [900] * classes, False: [890 - 10 * k for k in range(classes)]}  # without a CRF, and with any
        return [Trial(n, p, confusion_of(right[p is None])) for n, several in rounds.items() for p in several]

    factors = [t.params.compatibility for t in search(config(fine_rounds=0), worse) if t.round == "class" and t.params]
    assert len(factors) == 2 * MOST_CLASSES
    changed = {k for of_class in factors if of_class for k in range(classes) if of_class[k] != 1}
    assert changed == {0, *range(classes - MOST_CLASSES + 1, classes)}  # class 0 gets the pixels that others lose


@pytest.mark.parametrize("given", [{"class_factors": ()}, {"crf_params": {"compatibility": (1, 1, 1, 2)}}])
def test_factors_are_only_searched_if_wanted_and_not_given(given):
    trials = search(config(fine_rounds=0, **({"class_factors": (0.5, 2)} | given)), Tried())
    assert {trial.round for trial in trials} == {"none", "default", "coarse"}
