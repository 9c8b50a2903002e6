"""The second and third stage of R-CNN and SPPNet: linear SVMs with hard negatives, and box regressors.

Girshick et al., CVPR 2014, section 2.3 and appendix C. The constants are those of the released code. The results go to
`StagedNetwork.set_svms` and `set_regressors`. scikit-learn (the extra `detection`) fits both.
"""

import importlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

NORM = 20.0  # mean norm of the features that the SVMs see, for which their constants are chosen
SVM_COST = 0.001
POSITIVE_WEIGHT = 2.0
BIAS_MULTIPLIER = 10.0
HARD = -1.0  # Negatives with a larger score are within the margin.
EASY = -1.2  # Negatives with a smaller score are forgotten.
REFIT_AFTER = 2000  # new hard negatives
RIDGE = 1000.0


class Linear(NamedTuple):
    """A linear function of features.

    Attributes:
        weights: [features], or [outputs, features].
        biases: [], or [outputs].
    """

    weights: NDArray[np.float64]
    biases: NDArray[np.float64]

    def __call__(self, features: NDArray) -> NDArray[np.float64]:
        """Return the values for features [n, features], [n] or [n, outputs]."""
        return features @ self.weights.T + self.biases


def feature_scale(features: NDArray, norm: float = NORM) -> float:
    """Return the factor that gives features [n, features] a mean norm; 1 if all are zero."""
    mean = float(np.linalg.norm(features, axis=1).mean()) if len(features) else 0.0
    return norm / mean if mean > 0 else 1.0


def fit_svm(positives: NDArray, negatives: Iterable[NDArray], *, cost: float = SVM_COST) -> Linear:
    """Fit the SVM of a class in one pass over the negatives, of which it keeps the hard ones (section 2.3).

    Args:
        positives: Scaled features of the true boxes of the class, [n, features].
        negatives: Scaled features of the negative proposals of each image, [m, features]; see
            `sampling.svm_negatives`.
        cost: Weight C of the loss.

    Returns:
        The score of features; the margins are at -1 and 1. Without positives or negatives, it is -1 everywhere, so that
        the class is never detected by R-CNN's threshold.
    """
    fit = HardNegatives(positives, cost=cost)
    for some in negatives:
        fit.add(some)
    return fit.result()


class HardNegatives:
    """The SVM of a class, fitted while negatives come in; see `fit_svm`.

    Args:
        positives: Scaled features of the true boxes of the class, [n, features].
        cost: Weight C of the loss.
    """

    def __init__(self, positives: NDArray, *, cost: float = SVM_COST):
        self._positives = positives
        self._cost = cost
        self._kept = positives[:0]
        self._new = 0
        self._svm: Linear | None = None

    def add(self, negatives: NDArray) -> None:
        """Take in the scaled features of some negatives, [m, features]."""
        hard = negatives if self._svm is None else negatives[self._svm(negatives) > HARD]
        self._kept, self._new = np.concatenate([self._kept, hard]), self._new + len(hard)
        if len(self._kept) and (self._svm is None or self._new >= REFIT_AFTER):
            self._svm = _fit_hinge(self._positives, self._kept, self._cost)
            self._kept, self._new = self._kept[self._svm(self._kept) >= EASY], 0

    def result(self) -> Linear:
        """Return the SVM."""
        if self._new:
            return _fit_hinge(self._positives, self._kept, self._cost)
        return self._svm or _never(self._positives.shape[1])


def _never(features: int) -> Linear:
    return Linear(np.zeros(features), np.array(-1.0))


def _fit_hinge(positives: NDArray, negatives: NDArray, cost: float) -> Linear:
    if len(positives) == 0 or len(negatives) == 0:
        return _never(positives.shape[1])
    svm = _sklearn("svm").LinearSVC(
        C=cost,
        loss="hinge",
        intercept_scaling=BIAS_MULTIPLIER,
        class_weight={1: POSITIVE_WEIGHT, 0: 1.0},
        max_iter=100_000,
        random_state=0,
    )
    present = np.repeat([1, 0], [len(positives), len(negatives)])
    svm.fit(np.concatenate([positives, negatives]), present)
    return Linear(svm.coef_[0], svm.intercept_[0])


def fit_regressors(
    pooled: NDArray, targets: NDArray, labels: NDArray, *, num_classes: int, penalty: float = RIDGE
) -> list[Linear]:
    """Fit the box regressors of all classes by ridge regression (appendix C, equation 5).

    Args:
        pooled: Pooled features of proposals near true boxes, [n, features]; see `sampling.regression_pairs`.
        targets: Targets of `boxes.encode`, [n, 4].
        labels: Classes, [n].
        num_classes: Number of classes.
        penalty: Factor lambda of the squared weights.

    Returns:
        The corrections [4] of each class; no correction for a class without an example.
    """
    fitted = []
    for label in range(num_classes):
        mine = labels == label
        if not mine.any():
            fitted.append(Linear(np.zeros((4, pooled.shape[1])), np.zeros(4)))
            continue
        ridge = _sklearn("linear_model").Ridge(alpha=penalty).fit(pooled[mine], targets[mine])
        fitted.append(Linear(ridge.coef_, ridge.intercept_))
    return fitted


def require_sklearn() -> None:
    """Refuse to begin what needs scikit-learn later.

    Raises:
        UserError: scikit-learn is not installed.
    """
    _sklearn("svm")


def _sklearn(module: str) -> Any:
    """Return a module of scikit-learn.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ModuleNotFoundError:
        raise UserError("SVMs and box regressors need scikit-learn: pip install 'segpipe[detection]'") from None
