"""COCO's average precision equals that of pycocotools."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.metrics.detection import DetectionCounts, average_precisions, count_detections
from pipeline.metrics.matching import Detections, Truth, match_coco
from tests.support.boxes import random_boxes, random_image

CLASSES = 3
OUTSIDE = 1e12  # An area beyond the range of pycocotools, which ignores such a box but does not make it a crowd.


def xywh(box: np.ndarray) -> list[float]:
    return [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])]


def pycocotools_ap(images: list[tuple[Detections, Truth]]) -> np.ndarray:
    """The average precisions of pycocotools, [classes, thresholds]; NaN for classes without a box."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for i, (detections, truth) in enumerate(images):
        for box, label, difficult, crowd in zip(truth.boxes, truth.labels, truth.difficult, truth.crowd, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": int(label),
                    "bbox": xywh(box),
                    "area": OUTSIDE if difficult else 1.0,
                    "iscrowd": int(crowd),
                }
            )
        results += [
            {"image_id": i, "category_id": int(label), "bbox": xywh(box), "score": float(score)}
            for box, label, score in zip(detections.boxes, detections.labels, detections.scores, strict=True)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(images))],
            "categories": [{"id": c} for c in range(CLASSES)],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results) if results else COCO(), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # thresholds, recalls, classes
    ap = precision.mean(axis=1).T
    return np.where(ap < 0, np.nan, ap)


@pytest.mark.parametrize("seed", range(30))
def test_random_images_with_ties_duplicates_crowds_and_difficult_boxes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [random_image(rng, num_classes=CLASSES, levels=(4, 1000)[seed % 2]) for _ in range(8)]
    expected = pycocotools_ap(images)
    counts = [count_detections(d, t, num_classes=CLASSES, order=i) for i, (d, t) in enumerate(images)]
    found = average_precisions(DetectionCounts.merged(counts).coco, "coco")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert 0 < np.nanmean(found) < 1


def test_only_a_hundred_detections_of_a_class_count() -> None:
    rng = np.random.default_rng(0)
    truth = Truth.of(random_boxes(rng, 60, least=5), rng.integers(0, 2, 60))
    boxes = np.concatenate([random_boxes(rng, 200, least=5), truth.boxes])
    detections = Detections.of(
        boxes, np.concatenate([rng.integers(0, 2, 200), truth.labels]), rng.integers(0, 50, 260) / 50
    )
    found = average_precisions(match_coco(detections, truth, num_classes=CLASSES, order=0), "coco")
    np.testing.assert_allclose(found, pycocotools_ap([(detections, truth)]), rtol=0, atol=1e-12)


def test_of_equal_ious_the_last_true_box_is_taken() -> None:
    truth = Truth.of(np.array([[0, 0, 20, 20], [0, 4, 20, 24]]), np.zeros(2))
    # The first detection overlaps both equally; the second one is the first true box.
    detections = Detections.of(np.array([[0, 2, 20, 22], [0, 0, 20, 20]]), np.zeros(2), np.array([0.9, 0.8]))
    found = match_coco(detections, truth, num_classes=CLASSES, order=0)
    assert found.outcomes[:, -1].tolist() == [0, 1]
    assert found.outcomes[:, 0].tolist() == found.outcomes[:, 5].tolist() == [1, 1]
    expected = pycocotools_ap([(detections, truth)])
    np.testing.assert_allclose(average_precisions(found, "coco"), expected, rtol=0, atol=1e-12)
