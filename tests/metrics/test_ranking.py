"""Ranking scores against their definitions, by counting."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from pipeline.metrics.ranking import average_precision, roc_auc


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 12, 60) / 12, rng.random(60) < 0.4


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_the_share_of_pairs_in_order(seed: int) -> None:
    scores, present = drawn(seed)
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[present] for n in scores[~present]]
    assert roc_auc(scores, present) == pytest.approx(np.mean(pairs))
    statistic = mannwhitneyu(scores[present], scores[~present]).statistic
    assert roc_auc(scores, present) == pytest.approx(statistic / (present.sum() * (~present).sum()))


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_the_step_sum_over_thresholds(seed: int) -> None:
    scores, present = drawn(seed)
    total, before = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        chosen = scores >= threshold
        recall = present[chosen].sum() / present.sum()
        total += present[chosen].mean() * (recall - before)
        before = recall
    assert average_precision(scores, present) == pytest.approx(total)


def test_nothing_to_rank_is_nan() -> None:
    scores = np.array([0.1, 0.9])
    assert np.isnan(roc_auc(scores, np.array([True, True])))
    assert np.isnan(average_precision(scores, np.array([False, False])))
    assert average_precision(scores, np.array([True, True])) == 1
