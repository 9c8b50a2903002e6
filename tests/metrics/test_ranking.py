"""ROC AUC and average precision agree with their definitions and with SciPy."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, rankdata

from pipeline.metrics.ranking import average_precision, average_ranks, roc_auc


def random_items(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores with ties, and which items are present."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 12, 60) / 12, rng.random(60) < 0.4


@pytest.mark.parametrize("values", [[3.0, 1.0, 3.0, 2.0, 3.0], [5.0], [], [1.0, 1.0], [-np.inf, 0.0, np.inf, -0.0]])
def test_ranks_of_ties_are_averaged_as_in_scipy(values: list[float]) -> None:
    np.testing.assert_array_equal(average_ranks(np.array(values)), rankdata(values))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_ranks_of_random_values_agree_with_scipy(dtype: type) -> None:
    values: np.ndarray = np.random.default_rng(0).integers(0, 300, 1000).astype(dtype)
    np.testing.assert_array_equal(average_ranks(values), rankdata(values))


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_the_share_of_correctly_ordered_pairs(seed: int) -> None:
    scores, present = random_items(seed)
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[present] for n in scores[~present]]
    assert roc_auc(scores, present) == pytest.approx(np.mean(pairs))
    statistic = mannwhitneyu(scores[present], scores[~present]).statistic
    assert roc_auc(scores, present) == pytest.approx(statistic / (present.sum() * (~present).sum()))


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_the_step_sum_over_thresholds(seed: int) -> None:
    scores, present = random_items(seed)
    total, before = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        selected = scores >= threshold
        recall = present[selected].sum() / present.sum()
        total += present[selected].mean() * (recall - before)
        before = recall
    assert average_precision(scores, present) == pytest.approx(total)


def test_scores_without_present_or_absent_items_are_nan() -> None:
    scores = np.array([0.1, 0.9])
    assert np.isnan(roc_auc(scores, np.array([True, True])))
    assert np.isnan(average_precision(scores, np.array([False, False])))
    assert average_precision(scores, np.array([True, True])) == 1
