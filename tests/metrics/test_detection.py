"""VOC's average precision, the handling of edge cases, and the sums over images, against loops from the definitions."""

from fractions import Fraction

import numpy as np
import pytest

from pipeline.metrics.boxes import covered_shares, pairwise_iou
from pipeline.metrics.detection import (
    DetectionCounts,
    average_precisions,
    count_detections,
    curve,
    mean_over_classes,
)
from pipeline.metrics.matching import Detections, Matches, Truth, match_voc
from tests.support.boxes import random_boxes, random_image

CLASSES = 3
BOX = [10, 10, 30, 30]
FAR = [60, 60, 90, 80]
Images = list[tuple[Detections, Truth]]


def overlap(a: np.ndarray, b: np.ndarray, pixel: int) -> float:
    """The IoU of two boxes by the lines of `VOCevaldet.m`, where `pixel` is 1."""
    iw = min(a[2], b[2]) - max(a[0], b[0]) + pixel
    ih = min(a[3], b[3]) - max(a[1], b[1]) + pixel
    if iw <= 0 or ih <= 0:
        return -np.inf
    union = (a[2] - a[0] + pixel) * (a[3] - a[1] + pixel) + (b[2] - b[0] + pixel) * (b[3] - b[1] + pixel) - iw * ih
    return iw * ih / union


def voc_devkit(images: Images, label: int, pixel: int) -> tuple[list[int], int]:
    """Right (1) and wrong (0) detections of a class in descending order, and the number of objects: `VOCevaldet.m`."""
    truths = [t.boxes[t.labels == label] for _, t in images]
    difficult = [t.difficult[t.labels == label] for _, t in images]
    detected = [np.zeros(len(t), bool) for t in truths]
    objects = sum(int((~d).sum()) for d in difficult)
    found = [
        (i, box, score)
        for i, (d, _) in enumerate(images)
        for box, of, score in zip(d.boxes, d.labels, d.scores, strict=True)
        if of == label
    ]
    outcomes = []
    for i, box, _ in sorted(found, key=lambda f: -f[2]):
        best, at = -np.inf, -1
        for j, other in enumerate(truths[i]):
            if overlap(box, other, pixel) > best:
                best, at = overlap(box, other, pixel), j
        if best >= 0.5:
            if not difficult[i][at]:
                outcomes.append(0 if detected[i][at] else 1)
                detected[i][at] = True
        else:
            outcomes.append(0)
    return outcomes, objects


def voc07(outcomes: list[int], objects: int) -> float:
    """The 11-point average of `VOCap.m` of 2007, in exact arithmetic."""
    total = Fraction(0)
    for level in range(11):
        precisions = [
            Fraction(sum(outcomes[: n + 1]), n + 1)
            for n in range(len(outcomes))
            if Fraction(sum(outcomes[: n + 1]), objects) >= Fraction(level, 10)
        ]
        total += max(precisions, default=Fraction(0)) / 11
    return float(total)


def voc10(outcomes: list[int], objects: int) -> float:
    """The area of `VOCap.m` since 2010, line by line."""
    right = np.cumsum(outcomes) if outcomes else np.zeros(0)
    mrec = [0.0, *(right / objects), 1.0]
    mpre = [0.0, *(right / np.arange(1, len(outcomes) + 1)), 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)) if mrec[i] != mrec[i - 1])


def without_crowds(image: tuple[Detections, Truth]) -> tuple[Detections, Truth]:
    """The image with ordinary boxes in place of crowds, which VOC does not have."""
    detections, truth = image
    return detections, Truth.of(truth.boxes, truth.labels, truth.difficult)


@pytest.mark.parametrize("pixel", [0, 1])
@pytest.mark.parametrize("seed", range(15))
def test_voc_equals_the_development_kit(seed: int, pixel: int) -> None:
    rng = np.random.default_rng(seed)
    images = [without_crowds(random_image(rng, num_classes=CLASSES, levels=(4, 1000)[seed % 2])) for _ in range(8)]
    scores = DetectionCounts.merged(
        [count_detections(d, t, num_classes=CLASSES, order=i, pixel=pixel) for i, (d, t) in enumerate(images)]
    ).scores
    for label in range(CLASSES):
        outcomes, objects = voc_devkit(images, label, pixel)
        assert objects > 0
        assert 0 < sum(outcomes) < len(outcomes)
        assert scores.voc07[label] == pytest.approx(voc07(outcomes, objects), abs=1e-12)
        assert scores.voc10[label] == pytest.approx(voc10(outcomes, objects), abs=1e-12)


def test_images_can_be_added_in_any_order_and_grouping() -> None:
    rng = np.random.default_rng(0)
    parts = [
        count_detections(*random_image(rng, num_classes=CLASSES, levels=3), num_classes=CLASSES, order=i)
        for i in range(20)
    ]
    whole = DetectionCounts.merged(parts).scores
    shuffled = [parts[i] for i in rng.permutation(20)]
    again = sum(shuffled[:7], DetectionCounts.zeros(CLASSES)) + DetectionCounts.merged(shuffled[7:])
    assert again.images == 20
    for name in ("voc07", "voc10", "coco", "coco50", "coco75"):
        np.testing.assert_array_equal(getattr(again.scores, name), getattr(whole, name))


def scores_of(found: list[list[int]], scores: list[float], truth: Truth) -> DetectionCounts:
    detections = Detections.of(np.array(found).reshape(-1, 4), np.zeros(len(found), int), np.array(scores))
    return count_detections(detections, truth, num_classes=2, order=0)


def one_class(*boxes: list[int], **flags: list[bool]) -> Truth:
    return Truth.of(np.array(boxes), np.zeros(len(boxes), int), **{k: np.array(v) for k, v in flags.items()})


def test_no_truth_has_no_score_and_no_detections_score_zero() -> None:
    nothing = DetectionCounts.zeros(2).scores
    assert all(np.isnan(mean) for mean in nothing.means.values())
    false_alarms = scores_of([BOX], [0.9], one_class())
    assert np.isnan(false_alarms.scores.voc07).all()
    missed = scores_of([], [], one_class(BOX)).scores
    assert list(missed.means.values()) == [0.0] * 5  # the second class, which has no truth, does not count


def test_false_alarms_in_images_without_truth_count() -> None:
    counts = scores_of([BOX], [0.5], one_class(BOX)) + scores_of([BOX], [0.9], one_class())
    assert counts.scores.voc10[0] == counts.scores.coco50[0] == 0.5


@pytest.mark.parametrize("flag", ["difficult", "crowd"])
def test_only_boxes_to_be_ignored(flag: str) -> None:
    counts = scores_of([BOX, FAR], [0.9, 0.8], one_class(BOX, **{flag: [True]}))
    assert np.isnan(counts.scores.voc10[0])
    for matches in (counts.voc, counts.coco):
        assert matches.positives.tolist() == [0, 0]
        assert matches.outcomes[:, 0].tolist() == [-1, 0]


def test_a_difficult_box_takes_any_number_of_detections_in_voc_and_one_in_coco() -> None:
    counts = scores_of([BOX, BOX, FAR], [0.9, 0.8, 0.7], one_class(BOX, FAR, difficult=[True, False]))
    assert counts.voc.outcomes[:, 0].tolist() == [-1, -1, 1]
    assert counts.coco.outcomes[:, 0].tolist() == [-1, 0, 1]


def test_a_crowd_takes_detections_inside_it_unless_an_object_does() -> None:
    truth = one_class([0, 0, 100, 100], BOX, crowd=[True, False])
    counts = scores_of([BOX, BOX, [40, 40, 50, 50]], [0.9, 0.8, 0.7], truth)
    assert counts.coco.outcomes[:, 0].tolist() == [1, -1, -1]
    # VOC's detection takes the object although it is taken, and is then wrong.
    assert counts.voc.outcomes[:, 0].tolist() == [1, 0, -1]


def test_the_second_detection_of_an_object_is_wrong() -> None:
    counts = scores_of([BOX, BOX], [0.9, 0.9], one_class(BOX, FAR))
    assert counts.voc.outcomes[:, 0].tolist() == counts.coco.outcomes[:, 0].tolist() == [1, 0]


def test_a_taken_object_leaves_the_next_best_one_in_coco_alone() -> None:
    a, b = [0, 0, 20, 20], [0, 0, 20, 24]
    counts = scores_of([a, a], [0.9, 0.8], one_class(a, b))
    assert counts.voc.outcomes[:, 0].tolist() == [1, 0]
    assert counts.coco.outcomes[:, 0].tolist() == [1, 1]


def test_boxes_of_zero_area_match_nothing() -> None:
    flat = [10, 10, 10, 30]
    counts = scores_of([flat, BOX], [0.9, 0.8], one_class(flat, BOX))
    assert counts.voc.outcomes[:, 0].tolist() == counts.coco.outcomes[:, 0].tolist() == [0, 1]
    assert counts.voc.positives[0] == 2  # it cannot be found, but it is in the truth


def test_a_detection_of_another_class_finds_nothing() -> None:
    detections = Detections.of(np.array([BOX]), np.array([1]), np.array([0.9]))
    counts = count_detections(detections, one_class(BOX), num_classes=2, order=0)
    assert counts.scores.voc07[0] == 0.0
    assert np.isnan(counts.scores.voc07[1])


@pytest.mark.parametrize(("found", "wanted"), [(9, 10), (3, 10), (7, 10), (6, 20)])
def test_a_recall_that_is_exactly_a_tenth_counts(found: int, wanted: int) -> None:
    outcomes = np.ones((found, 1), np.int8)
    n = np.arange(found)
    matches = Matches(
        np.zeros(found, np.int32), 1.0 - n / 100, n, np.zeros(found, np.int32), outcomes, np.array([wanted])
    )
    assert average_precisions(matches, "voc07")[0, 0] == pytest.approx((10 * found // wanted + 1) / 11)


def test_the_curve_of_a_class() -> None:
    counts = scores_of([BOX, FAR, [0, 0, 5, 5]], [0.5, 0.9, 0.7], one_class(BOX, FAR, [40, 0, 50, 9], [0, 40, 9, 50]))
    found = curve(counts.voc, 0)
    assert found.scores.tolist() == [0.9, 0.7, 0.5]
    assert found.precision.tolist() == [1, 1 / 2, 2 / 3]
    assert found.recall.tolist() == [1 / 4, 1 / 4, 1 / 2]


def test_what_is_no_score_and_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 scores are not numbers"):
        Detections.of(np.zeros((2, 4)), np.zeros(2), np.array([0.5, np.nan]))
    detections = Detections.of(np.array([BOX]), np.array([7]), np.array([0.9]))
    with pytest.raises(ValueError, match="there are 2 classes"):
        match_voc(detections, one_class(BOX), num_classes=2, order=0)


def test_classes_without_truth_do_not_count_in_a_mean() -> None:
    assert mean_over_classes(np.array([0.25, np.nan, 0.75])) == 0.5


@pytest.mark.parametrize("pixel", [0, 1])
def test_overlaps_of_random_boxes_equal_counted_pixels(pixel: int) -> None:
    rng = np.random.default_rng(pixel)
    boxes = [random_boxes(rng, 12, side=12) for _ in range(2)]

    def pixels(box: np.ndarray) -> np.ndarray:
        drawn = np.zeros((13, 13), bool)
        left, top, right, bottom = box.astype(int)
        drawn[top : bottom + pixel, left : right + pixel] = True
        return drawn

    ious, shares = (f(*boxes, pixel=pixel) for f in (pairwise_iou, covered_shares))
    for i, a in enumerate(map(pixels, boxes[0])):
        for j, b in enumerate(map(pixels, boxes[1])):
            assert ious[i, j] == pytest.approx((a & b).sum() / max((a | b).sum(), 1))
            assert shares[i, j] == pytest.approx((a & b).sum() / max(a.sum(), 1))
