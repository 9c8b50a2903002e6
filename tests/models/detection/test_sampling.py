"""The sampling rules of the papers against loops, and their edge cases."""

import numpy as np
import pytest

from pipeline.metrics.boxes import pairwise_iou
from pipeline.models.detection.sampling import (
    FAST_RCNN,
    FINE_TUNING,
    SampleRule,
    grid_targets,
    regression_pairs,
    sample_regions,
    svm_negatives,
)
from tests.support.boxes import random_boxes

CLASSES = 3
NONE = np.zeros((0, 4))


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return proposals, many of them near true boxes, the true boxes, and their labels."""
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, 5, least=20)
    shifted = boxes.repeat(60, axis=0) + rng.integers(-15, 16, (300, 4))
    near = shifted[((shifted[:, 2:] - shifted[:, :2]) > 0).all(axis=1)]
    return np.concatenate([random_boxes(rng, 100, least=3), near]), boxes, np.array([0, 1, 1, 0, 1])


def best_ious(regions: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return np.array([max(pairwise_iou(r[None], b[None])[0, 0] for b in boxes) for r in regions])


@pytest.mark.parametrize("rule", [FAST_RCNN, FINE_TUNING])
@pytest.mark.parametrize("seed", range(3))
def test_a_quarter_has_objects_and_the_rest_the_papers_background(seed: int, rule: SampleRule) -> None:
    proposals, boxes, labels = scene(seed)
    sample = sample_regions(proposals, boxes, labels, num_classes=CLASSES, rule=rule, rng=np.random.default_rng(seed))
    assert len(sample.boxes) == rule.regions
    assert sample.foreground == rule.regions // 4
    ious = best_ious(sample.boxes, boxes)
    assert (ious[: sample.foreground] >= 0.5).all()
    assert ((ious[sample.foreground :] >= rule.background[0]) & (ious[sample.foreground :] < 0.5)).all()
    assert (sample.labels[sample.foreground :] == CLASSES).all()
    for region, label, matched in list(zip(sample.boxes, sample.labels, sample.matched, strict=True))[
        : sample.foreground
    ]:
        nearest = int(np.argmax([pairwise_iou(region[None], b[None])[0, 0] for b in boxes]))
        assert label == labels[nearest]
        assert matched.tolist() == boxes[nearest].tolist()
    assert len(np.unique(sample.boxes, axis=0)) > 0.8 * rule.regions  # drawn without replacement


def test_the_sample_depends_on_the_seed_alone() -> None:
    proposals, boxes, labels = scene(0)

    def drawn(seed: int) -> list:
        rng = np.random.default_rng(seed)
        return sample_regions(proposals, boxes, labels, num_classes=CLASSES, rule=FAST_RCNN, rng=rng).boxes.tolist()

    assert drawn(1) == drawn(1) != drawn(2)


def test_ious_at_the_bounds_of_the_rule() -> None:
    proposals = np.array([[0, 0, 10, 5], [0, 0, 10, 4], [0, 0, 10, 1], [0, 0, 9, 1]])  # IoU 0.5, 0.4, 0.1, 0.09
    sample = sample_regions(
        proposals,
        np.array([[0, 0, 10, 10]]),
        np.array([1]),
        num_classes=CLASSES,
        rule=FAST_RCNN,
        rng=np.random.default_rng(0),
    )
    assert sample.labels.tolist() == [1, 1, CLASSES, CLASSES]
    assert sample.boxes[1:].tolist() == proposals[:3].tolist()


def test_true_boxes_are_regions_and_empty_proposals_are_not() -> None:
    flat = np.array([[5, 5, 5, 20]])
    sample = sample_regions(
        flat,
        np.array([[0, 0, 9, 9]]),
        np.array([2]),
        num_classes=CLASSES,
        rule=FINE_TUNING,
        rng=np.random.default_rng(),
    )
    assert sample.boxes.tolist() == [[0, 0, 9, 9]]
    assert sample.labels.tolist() == [2]


@pytest.mark.parametrize(("rule", "regions"), [(FAST_RCNN, 0), (FINE_TUNING, 10)])
def test_an_image_without_true_boxes_has_background_if_the_rule_starts_at_zero(rule: SampleRule, regions: int) -> None:
    proposals = random_boxes(np.random.default_rng(0), 10, least=1)
    rng = np.random.default_rng(0)
    sample = sample_regions(proposals, NONE, np.zeros(0), num_classes=CLASSES, rule=rule, rng=rng)
    assert sample.labels.tolist() == [CLASSES] * regions
    assert sample.matched.shape == (regions, 4)
    empty = sample_regions(NONE, NONE, np.zeros(0), num_classes=CLASSES, rule=rule, rng=rng)
    assert empty.boxes.shape == (0, 4)


@pytest.mark.parametrize("seed", range(3))
def test_negatives_of_svms_are_below_three_tenths_of_every_box_of_the_class(seed: int) -> None:
    proposals, boxes, labels = scene(seed)
    found = svm_negatives(proposals, boxes, labels, num_classes=CLASSES)
    for i, proposal in enumerate(proposals):
        for label in range(CLASSES):
            ious = [
                pairwise_iou(proposal[None], b[None])[0, 0] for b, of in zip(boxes, labels, strict=True) if of == label
            ]
            assert found[i, label] == all(iou < 0.3 for iou in ious)
    assert found[:, 2].all()  # no box of this class is in the image
    assert 0 < found[:, 0].sum() < len(found)


def test_positives_and_ignored_proposals_are_never_negatives() -> None:
    boxes, labels = np.array([[0, 0, 10, 10], [50, 0, 60, 10]]), np.array([0, 1])
    proposals = np.array([[0, 0, 10, 10], [0, 0, 10, 3], [0, 0, 10, 2], [50, 0, 60, 10]])  # IoU 1, 0.3, 0.2, 1
    found = svm_negatives(proposals, boxes, labels, num_classes=2)
    assert found.tolist() == [[False, True], [False, True], [True, True], [True, False]]


@pytest.mark.parametrize("seed", range(3))
def test_regression_pairs_equal_a_loop(seed: int) -> None:
    proposals, boxes, labels = scene(seed)
    pairs = regression_pairs(proposals, boxes, labels, num_classes=CLASSES)
    expected = []
    for label in range(CLASSES):
        mine = boxes[labels == label]
        for i, proposal in enumerate(proposals):
            ious = [pairwise_iou(proposal[None], b[None])[0, 0] for b in mine]
            if ious and max(ious) > 0.6:
                expected.append((i, label, mine[int(np.argmax(ious))].tolist()))
    found = zip(pairs.proposals.tolist(), pairs.labels.tolist(), pairs.matched.tolist(), strict=True)
    assert list(found) == expected
    assert expected


def test_regression_pairs_of_an_image_without_boxes() -> None:
    pairs = regression_pairs(random_boxes(np.random.default_rng(0), 5), NONE, np.zeros(0), num_classes=2)
    assert pairs.matched.shape == (0, 4)


def test_boxes_fall_into_the_cells_of_their_centres() -> None:
    boxes = np.array([[0, 0, 20, 20], [60, 0, 80, 100], [90, 190, 100, 200]])
    targets = grid_targets(boxes, np.array([2, 0, 1]), size=(200, 100), grid=4)
    occupied = {(r, c): targets.labels[r, c] for r, c in np.argwhere(targets.labels >= 0).tolist()}
    assert occupied == {(0, 0): 2, (1, 2): 0, (3, 3): 1}
    np.testing.assert_allclose(targets.boxes[1, 2], [0.6, 0, 0.8, 0.5])
    assert not targets.boxes[2, 2].any()
    assert targets.dropped == 0


def test_boxes_beyond_the_first_of_a_cell_are_counted() -> None:
    boxes = np.array([[0, 0, 20, 20], [2, 2, 22, 22], [80, 80, 100, 100], [0, 0, 10, 10]])
    targets = grid_targets(boxes, np.array([0, 1, 1, 1]), size=(100, 100), grid=2)
    assert targets.dropped == 2
    assert targets.labels.tolist() == [[0, -1], [-1, 1]]
    np.testing.assert_allclose(targets.boxes[0, 0], [0, 0, 0.2, 0.2])


def test_boxes_at_the_border_and_without_area() -> None:
    boxes = np.array([[99.9999999999, 99.9999999999, 100, 100], [10, 10, 10, 30], [50, 50, 40, 60]])
    targets = grid_targets(boxes, np.array([0, 1, 1]), size=(100, 100), grid=7)
    assert targets.labels[6, 6] == 0
    assert (targets.labels >= 0).sum() == 1
    assert targets.dropped == 0
