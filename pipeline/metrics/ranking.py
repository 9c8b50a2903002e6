"""Scores of a ranking of present and absent items: ROC AUC and average precision."""

import numpy as np
from numpy.typing import NDArray


def none_if_nan(score: float) -> float | None:
    """Return a score for JSON and Parquet, where None means undefined."""
    return None if np.isnan(score) else float(score)


def roc_auc(scores: NDArray, present: NDArray[np.bool_]) -> float:
    """Compute the probability that a present item has a larger score than an absent one; ties count half.

    Args:
        scores: Scores [n] of any scale.
        present: Whether each item is present, [n].

    Returns:
        The probability; NaN if all or no items are present.
    """
    positive = int(present.sum())
    negative = len(present) - positive
    if positive == 0 or negative == 0:
        return float("nan")
    ranks = average_ranks(scores)
    return float((ranks[present].sum() - positive * (positive + 1) / 2) / (positive * negative))


def average_ranks(values: NDArray) -> NDArray[np.float64]:
    """Rank values [n] from 1 in ascending order; equal values get the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]


def average_precision(scores: NDArray, present: NDArray[np.bool_]) -> float:
    """Compute the area under the step curve of precision over recall; equal scores share a threshold.

    Args:
        scores: Scores [n] of any scale.
        present: Whether each item is present, [n].

    Returns:
        The area, 0..1; NaN if no item is present.
    """
    if not present.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    sorted_scores, hits = scores[order], present[order].cumsum()
    last = np.append(sorted_scores[1:] != sorted_scores[:-1], True)  # in each run of equal scores
    precision = hits[last] / (np.flatnonzero(last) + 1)
    recall = hits[last] / hits[-1]
    return float((precision * np.diff(recall, prepend=0.0)).sum())
