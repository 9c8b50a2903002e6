"""SVMs with mined negatives against fits to all negatives, box regressors against the normal equations."""

import numpy as np
import pytest

from pipeline.models.detection import stages
from pipeline.models.detection.stages import Linear, feature_scale, fit_regressors, fit_svm


def clouds(seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return positives and, for each of 30 images, negatives, of which few are near the positives."""
    rng = np.random.default_rng(seed)
    positives = rng.normal(1.0, 1.0, (60, 12))
    negatives = [rng.normal(-1.0, 1.0, (40, 12)) + rng.exponential(0.3, (40, 1)) for _ in range(30)]
    return positives, negatives


def objective(svm: Linear, positives: np.ndarray, negatives: np.ndarray, cost: float) -> float:
    """The value that the SVM minimises; its bias is a weight of the constant feature 10."""
    regulariser = (svm.weights**2).sum() / 2 + (svm.biases / 10) ** 2 / 2
    hinge = 2 * np.maximum(1 - svm(positives), 0).sum() + np.maximum(1 + svm(negatives), 0).sum()
    return float(regulariser + cost * hinge)


@pytest.mark.parametrize("seed", range(3))
def test_one_pass_of_mining_is_as_good_as_all_negatives(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "REFIT_AFTER", 50)
    sizes = []
    fit = stages._fit_hinge

    def recorded(positives: np.ndarray, negatives: np.ndarray, cost: float) -> Linear:
        sizes.append(len(negatives))
        return fit(positives, negatives, cost)

    monkeypatch.setattr(stages, "_fit_hinge", recorded)
    positives, negatives = clouds(seed)
    everything = np.concatenate(negatives)
    mined = fit_svm(positives, negatives, cost=0.01)
    assert len(sizes) > 2
    assert max(sizes) < len(everything) / 2
    best = objective(fit(positives, everything, 0.01), positives, everything, 0.01)
    assert objective(mined, positives, everything, 0.01) < 1.02 * best
    for other in (Linear(mined.weights * 1.2, mined.biases), Linear(mined.weights, mined.biases + 0.3)):
        assert objective(other, positives, everything, 0.01) > best


def test_a_class_without_examples_is_never_detected() -> None:
    positives, negatives = clouds(0)
    for svm in (fit_svm(positives[:0], negatives), fit_svm(positives, []), fit_svm(positives, [positives[:0]])):
        assert (svm(positives) == -1).all()


def test_features_are_scaled_to_a_mean_norm() -> None:
    features = np.array([[3.0, 4], [0, 15]])
    assert np.linalg.norm(features * feature_scale(features), axis=1).mean() == pytest.approx(20)
    assert feature_scale(np.zeros((2, 3))) == feature_scale(np.zeros((0, 3))) == 1


@pytest.mark.parametrize("features", [5, 200])
def test_regressors_solve_the_normal_equations(features: int) -> None:
    rng = np.random.default_rng(0)
    pooled, labels = rng.normal(2, 1, (60, features)), rng.integers(0, 2, 60)
    targets = pooled[:, :4] * 0.1 + rng.normal(0, 0.1, (60, 4))
    found = fit_regressors(pooled, targets, labels, num_classes=3, penalty=7.0)
    for label in range(2):
        x, y = pooled[labels == label], targets[labels == label]
        x0, y0 = x - x.mean(axis=0), y - y.mean(axis=0)
        weights = np.linalg.solve(x0.T @ x0 + 7.0 * np.eye(features), x0.T @ y0)
        np.testing.assert_allclose(found[label](x), x0 @ weights + y.mean(axis=0), atol=1e-9)
    assert not found[2](pooled).any()
