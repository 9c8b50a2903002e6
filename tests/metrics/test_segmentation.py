"""Confusion matrices agree with a plain loop, and scores with manual calculations."""

import math

import numpy as np
import pytest

from pipeline.metrics.segmentation import Confusion, confusion, scores

K = 5


def by_loop(labels: np.ndarray, predictions: np.ndarray, *, num_classes: int, ignore_index: int) -> Confusion:
    matrix = [[0] * num_classes for _ in range(num_classes)]
    ignored = invalid_label = invalid_prediction = 0
    for label, prediction in zip(labels.ravel().tolist(), predictions.ravel().tolist(), strict=True):
        if label == ignore_index:
            ignored += 1
        elif not 0 <= label < num_classes:
            invalid_label += 1
        elif not 0 <= prediction < num_classes:
            invalid_prediction += 1
        else:
            matrix[label][prediction] += 1
    return Confusion(np.array(matrix, np.int64), ignored, invalid_label, invalid_prediction)


def assert_same(a: Confusion, b: Confusion) -> None:
    np.testing.assert_array_equal(a.matrix, b.matrix)
    assert (a.ignored, a.invalid_label, a.invalid_prediction) == (b.ignored, b.invalid_label, b.invalid_prediction)


def pixels_of(counts: Confusion) -> int:
    return int(counts.matrix.sum()) + counts.ignored + counts.invalid_label + counts.invalid_prediction


def random_maps(seed: int, shape: tuple[int, ...] = (13, 29)) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions with classes, 255 and invalid values."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 3, 4, 5, 77, 254, 255], shape)
    predictions = rng.choice([0, 1, 2, 3, 4, 5, 200, 255], shape)
    return labels, predictions


@pytest.mark.parametrize("ignore_index", [255, 5, 77, -1])
@pytest.mark.parametrize(
    "dtypes", [(np.int32, np.uint8), (np.uint8, np.uint8), (np.int64, np.uint16), (np.uint16, np.int64)]
)
def test_confusion_agrees_with_a_plain_loop(dtypes: tuple[type, type], ignore_index: int) -> None:
    labels, predictions = random_maps(0)
    labels, predictions = labels.astype(dtypes[0]), predictions.astype(dtypes[1])
    expected = by_loop(labels, predictions, num_classes=K, ignore_index=ignore_index)
    assert_same(confusion(labels, predictions, num_classes=K, ignore_index=ignore_index), expected)


def test_negative_values_are_no_classes() -> None:
    labels, predictions = np.array([-1, -5, 0, 1, 1]), np.array([0, 0, -1, -3, 1])
    found = confusion(labels, predictions, num_classes=2, ignore_index=-5)
    assert_same(found, Confusion(np.array([[0, 0], [0, 1]]), ignored=1, invalid_label=1, invalid_prediction=2))


def test_rows_are_the_ground_truth() -> None:
    found = confusion(np.array([0, 0, 1]), np.array([1, 1, 1]), num_classes=2, ignore_index=255)
    assert found.matrix.tolist() == [[0, 2], [0, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_every_pixel_is_counted_once(seed: int) -> None:
    labels, predictions = random_maps(seed)
    assert pixels_of(confusion(labels, predictions, num_classes=K, ignore_index=255)) == labels.size


def test_confusions_add_up() -> None:
    maps = [random_maps(seed, shape=(7, 3 + seed)) for seed in range(6)]
    parts = [confusion(labels, predictions, num_classes=K, ignore_index=255) for labels, predictions in maps]
    whole = [np.concatenate([pair[side].ravel() for pair in maps]) for side in (0, 1)]
    assert_same(sum(parts, Confusion.zeros(K)), confusion(*whole, num_classes=K, ignore_index=255))


def test_adding_does_not_modify_the_operands() -> None:
    a = confusion(np.array([0, 255]), np.array([1, 0]), num_classes=2, ignore_index=255)
    a + a
    assert_same(a, Confusion(np.array([[0, 1], [0, 0]]), ignored=1))


def test_the_confusion_of_no_pixels_is_zero() -> None:
    empty = np.zeros((0, 4), np.uint8)
    assert_same(confusion(empty, empty, num_classes=3, ignore_index=255), Confusion.zeros(3))


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 3, 1)])
def test_different_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="labels are"):
        confusion(np.zeros((2, 3), int), np.zeros(shape, int), num_classes=2, ignore_index=255)


@pytest.mark.parametrize("ignore_index", [0, 4])
def test_an_ignore_index_among_the_classes_is_refused(ignore_index: int) -> None:
    maps = np.zeros((1, 1), int), np.zeros((1, 1), int)
    with pytest.raises(ValueError, match=f"ignore index {ignore_index} is one of the classes 0..4"):
        confusion(*maps, num_classes=5, ignore_index=ignore_index)
    confusion(*maps, num_classes=5, ignore_index=5)


# --- scores


def test_scores_with_absent_and_only_predicted_classes() -> None:
    """Class 3 occurs nowhere, and class 4 only in the prediction."""
    matrix = np.array(
        [
            [50, 2, 0, 0, 3],
            [4, 30, 1, 0, 0],
            [0, 5, 5, 0, 0],
            [0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0],
        ]
    )
    found = scores(matrix)
    # ground truth 55, 35, 10, 0, 0; predicted 54, 37, 6, 0, 3; union 55+54-50, 35+37-30, 10+6-5, 0, 3
    iou = [50 / 59, 30 / 42, 5 / 11, math.nan, 0.0]
    accuracy = [50 / 55, 30 / 35, 5 / 10, math.nan, math.nan]
    np.testing.assert_allclose(found.iou, iou, rtol=1e-15)
    np.testing.assert_allclose(found.accuracy, accuracy, rtol=1e-15)
    assert found.miou == pytest.approx((50 / 59 + 30 / 42 + 5 / 11 + 0) / 4)
    assert found.miou_gt_only == pytest.approx((50 / 59 + 30 / 42 + 5 / 11) / 3)
    assert found.pixel_accuracy == pytest.approx(85 / 100)
    assert found.mean_accuracy == pytest.approx((50 / 55 + 30 / 35 + 5 / 10) / 3)
    assert found.fwiou == pytest.approx((55 * 50 / 59 + 35 * 30 / 42 + 10 * 5 / 11) / 100)


def test_a_class_that_is_never_predicted_scores_zero() -> None:
    found = scores(np.array([[4, 0], [6, 0]]))
    assert found.iou.tolist() == [0.4, 0]
    assert found.accuracy.tolist() == [1, 0]
    assert found.miou == found.miou_gt_only == 0.2


def test_scores_follow_their_definitions() -> None:
    labels, predictions = (a % K for a in random_maps(3))
    found = confusion(labels, predictions, num_classes=K, ignore_index=255).scores
    for k in range(K):
        truth, predicted = labels == k, predictions == k
        assert found.iou[k] == pytest.approx((truth & predicted).sum() / (truth | predicted).sum())
        assert found.accuracy[k] == pytest.approx(predicted[truth].mean())
    assert found.pixel_accuracy == pytest.approx((labels == predictions).mean())
    assert found.miou == found.miou_gt_only == pytest.approx(np.mean(found.iou))


def test_a_perfect_prediction_scores_one() -> None:
    found = scores(np.diag([3, 5, 9]))
    assert found.iou.tolist() == [1, 1, 1]
    assert (found.miou, found.miou_gt_only, found.pixel_accuracy, found.mean_accuracy, found.fwiou) == (1, 1, 1, 1, 1)


@pytest.mark.filterwarnings("error")
def test_an_empty_matrix_gives_nan_and_no_warning() -> None:
    found = Confusion.zeros(3).scores
    assert np.isnan(found.iou).all()
    assert np.isnan(found.accuracy).all()
    single = (found.miou, found.miou_gt_only, found.pixel_accuracy, found.mean_accuracy, found.fwiou)
    assert all(math.isnan(value) for value in single)


def test_scores_do_not_depend_on_the_number_of_pixels() -> None:
    matrix = np.random.default_rng(0).integers(0, 100, (K, K))
    small, large = scores(matrix), scores(matrix * 10**12)
    np.testing.assert_allclose(small.iou, large.iou, rtol=1e-12)
    assert small.fwiou == pytest.approx(large.fwiou)


@pytest.mark.parametrize("pixels", [2**24, 2**31, 2**40])
def test_counts_are_exact_beyond_the_limits_of_float32_and_int32(pixels: int) -> None:
    big = Confusion(np.array([[pixels, 0], [0, 0]], np.int64), pixels, pixels, pixels)
    one = confusion(np.array([0, 255, 9, 1]), np.array([0, 0, 0, 7]), num_classes=2, ignore_index=255)
    total = big + one
    assert total.matrix.dtype == np.int64
    assert total.matrix[0, 0] == pixels + 1
    assert (total.ignored, total.invalid_label, total.invalid_prediction) == (pixels + 1,) * 3


def test_a_single_pixel_counts_among_a_trillion() -> None:
    found = scores(np.array([[2**40, 1], [0, 1]], np.int64))
    assert found.iou[1] == 0.5
    assert found.iou[0] == 2**40 / (2**40 + 1) < 1


def test_counts_are_int64_for_every_input_dtype() -> None:
    labels = np.zeros(3, np.uint8)
    assert confusion(labels, labels, num_classes=2, ignore_index=255).matrix.dtype == np.int64
