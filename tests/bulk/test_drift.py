"""The test for drift: how often it flags what has not changed, and that it flags what has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bulk.comparison.drift import LEVEL, class_drift, holm

REPEATS = 400


def shares(rng: np.random.Generator, images: int, *, more: float = 1.0) -> np.ndarray:
    """Shares of four classes in images, two of which are absent from most images; a last one never occurs."""
    amounts = rng.gamma([4.0, 2.0, 0.8, 0.5], size=(images, 4))
    amounts *= rng.random((images, 4)) < [1.0, 1.0, 0.3, 0.1]
    amounts[:, 1] *= more
    amounts /= np.maximum(amounts.sum(axis=1, keepdims=True), 1e-9)
    return np.column_stack([amounts, np.zeros(images)]).astype(np.float32)


@pytest.mark.parametrize(("earlier", "later"), [(40, 60), (200, 25)])
def test_without_a_change_flags_are_as_rare_as_stated(earlier, later):
    rng = np.random.default_rng(0)
    flags = sum(
        any(one.is_flagged for one in class_drift(shares(rng, earlier), shares(rng, later))) for _ in range(REPEATS)
    )
    # The stated probability, and three standard errors of a share of so many repeats.
    assert flags / REPEATS <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / REPEATS)


def test_without_correction_flags_would_be_more_frequent_than_stated():
    """So the test above can fail."""
    rng = np.random.default_rng(0)
    flags = 0
    for _ in range(REPEATS):
        found = class_drift(shares(rng, 40), shares(rng, 60))
        flags += any(one.p is not None and one.p < LEVEL for one in found)
    assert flags / REPEATS > LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / REPEATS)


def test_a_shift_is_flagged_with_its_direction():
    rng = np.random.default_rng(1)
    found = class_drift(shares(rng, 150), shares(rng, 150, more=3.0))
    assert found[1].is_flagged
    assert found[1].delta > 0
    assert found[1].effect in ("medium", "large")
    assert found[1].later > found[1].earlier
    assert found[0].delta < 0  # the others give way
    assert found[4].p is None  # it never occurs
    assert not found[4].is_flagged


def test_delta_is_the_difference_of_the_chances():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 5, 30), rng.integers(1, 7, 40)
    (found,) = class_drift(a[:, None].astype(np.float32), b[:, None].astype(np.float32))
    expected = (b[:, None] > a).mean() - (b[:, None] < a).mean()
    assert found.delta == pytest.approx(expected, abs=1e-12)


def test_the_same_amount_everywhere_is_no_drift():
    (found,) = class_drift(np.full((30, 1), 0.5, np.float32), np.full((40, 1), 0.5, np.float32))
    assert found.p == 1.0
    (found,) = class_drift(np.full((30, 1), 0.5, np.float32), np.full((40, 1), 0.6, np.float32))
    assert found.is_flagged
    assert found.delta == 1


def test_the_correction_of_a_known_example():
    """Holm 1979: p-values times the number of hypotheses that are left, never falling."""
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(deadline=None)
def test_corrected_values_keep_the_order_and_never_shrink(p_values):
    corrected = holm(list(p_values))
    assert all(c is not None and p <= c <= 1 for p, c in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(corrected, float)[order]) >= 0)
