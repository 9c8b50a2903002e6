"""How well scores rank what is there before what is not: ROC AUC and average precision. numpy and scipy only."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def none_if_nan(score: float) -> float | None:
    """A score as JSON and Parquet have it: None where it is undefined."""
    return None if np.isnan(score) else float(score)


def roc_auc(scores: NDArray, present: NDArray[np.bool_]) -> float:
    """The probability that something present has a larger score than something absent; ties count half.

    Args:
        scores: [n], of any scale.
        present: [n].

    Returns:
        0..1; NaN where all or none are present.
    """
    positive = int(present.sum())
    negative = len(present) - positive
    if positive == 0 or negative == 0:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[present].sum() - positive * (positive + 1) / 2) / (positive * negative))


def average_precision(scores: NDArray, present: NDArray[np.bool_]) -> float:
    """The area under precision over recall, as steps; equal scores share a threshold. NaN where none is present."""
    if not present.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    sorted_scores, hits = scores[order], present[order].cumsum()
    last = np.append(sorted_scores[1:] != sorted_scores[:-1], True)  # of each run of equal scores
    precision = hits[last] / (np.flatnonzero(last) + 1)
    recall = hits[last] / hits[-1]
    return float((precision * np.diff(recall, prepend=0.0)).sum())
