"""Localization scores agree with those of the evaluator that Choe et al. released, computed once with OpenCV."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.metrics.boxes import pairwise_iou
from pipeline.metrics.localization import (
    BoxHits,
    PixelHits,
    Regions,
    best_ious,
    box_coverage,
    box_hits,
    centre_ious,
    pixel_hits,
    region_boxes,
    resized_box,
    thresholds,
)
from pipeline.metrics.ranking import average_precision

GOLDEN = json.loads((Path(__file__).parent / "golden_wsol.json").read_text())
SIDE = 224


def heatmap(blobs: list[list[float]]) -> np.ndarray:
    """Return the map of the golden values: a min-max normalised sum of Gaussians."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    total = sum(a * np.exp(-((x - cx) ** 2 / (2 * sx**2) + (y - cy) ** 2 / (2 * sy**2))) for a, cx, cy, sx, sy in blobs)
    total = total - total.min()
    return total / total.max()


MAPS = {name: heatmap(values["blobs"]) for name, values in GOLDEN["maps"].items()}
STEPS = np.array(GOLDEN["thresholds"])


@pytest.mark.parametrize("name", list(MAPS))
def test_boxes_agree_with_the_evaluator(name: str) -> None:
    values = GOLDEN["maps"][name]
    for threshold, largest, all_boxes in zip(STEPS, values["largest"], values["all"], strict=True):
        assert region_boxes(MAPS[name], threshold, regions="largest").tolist() == [largest]
        assert sorted(region_boxes(MAPS[name], threshold, regions="all").tolist()) == sorted(all_boxes)


def hits(regions: Regions) -> BoxHits:
    total = BoxHits.zeros(len(STEPS))
    for name, boxes in GOLDEN["maxboxacc"]["gt_in_448x336"].items():
        truth = resized_box(np.array(boxes), (448, 336), (SIDE, SIDE))
        best = best_ious(MAPS[name], truth, steps=STEPS, regions=regions)
        total += box_hits(best[None], np.array([len(name) % 7]))
    return total


@pytest.mark.parametrize(("regions", "key"), [("largest", "v1_largest"), ("all", "v2_all_contours")])
def test_max_box_acc_agrees_with_the_evaluator(regions: Regions, key: str) -> None:
    expected, found = GOLDEN["maxboxacc"]["result"][key], hits(regions)
    assert 100 * found.accuracy().max(axis=0) == pytest.approx(expected["per_iou_30_50_70"])
    assert 100 * found.max_box_acc_v2 == pytest.approx(expected["mean"])
    assert 100 * found.max_box_acc == pytest.approx(expected["per_iou_30_50_70"][1])
    assert found.known[list(STEPS).index(0.2)].tolist() == expected["num_correct_at_thr_0.2"]
    assert found.images == len(MAPS)


def test_ranks_determine_top_1_and_top_5() -> None:
    truth = np.array([[0, 0, 223, 223]])
    full = np.ones((SIDE, SIDE))
    best = best_ious(full, truth, steps=np.array([0.2]), regions="largest")
    found = box_hits(np.stack([best] * 4), np.array([0, 1, 4, 5]))
    assert (found.known[0, 1], found.top1[0, 1], found.top5[0, 1], found.images) == (4, 1, 3, 4)


def test_the_iou_and_scaling_of_inclusive_boxes() -> None:
    assert pairwise_iou(np.array([[1, 2, 5, 6]]), np.array([[3, 1, 4, 5]]), pixel=1)[0, 0] == pytest.approx(8 / 27)
    assert pairwise_iou(np.zeros((1, 4)), np.zeros((1, 4)), pixel=1)[0, 0] == 1
    assert resized_box(np.array([[1, 2, 4, 3]]), (10, 20), (35, 10)).tolist() == [[3, 1, 14, 1]]


def foreground(name: str) -> np.ndarray:
    """Return the mask of the golden values: the rounded, inclusive true boxes, and an ignored corner outside them."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:20, 200:] = 255
    for box in GOLDEN["maxboxacc"]["gt_in_448x336"][name]:
        left, top, right, bottom = (round(v * s) for v, s in zip(box, (1 / 2, 2 / 3) * 2, strict=True))
        mask[top : bottom + 1, left : right + 1] = 1
    return mask


@pytest.mark.parametrize("step", ["0.01", "0.001"])
def test_px_ap_agrees_with_the_evaluator(step: str) -> None:
    steps = thresholds(float(step))
    parts = [pixel_hits(MAPS[name], foreground(name), steps=steps) for name in MAPS]
    found = sum(parts, PixelHits.zeros(len(steps)))
    assert 100 * found.px_ap == pytest.approx(GOLDEN["pxap"]["result"][step])


def test_px_ap_of_a_perfect_map_is_one_and_of_a_constant_map_the_base_rate() -> None:
    truth = np.zeros((SIDE, SIDE), np.uint8)
    truth[40:90, 60:160] = 1
    truth[:, :10] = 255
    steps = thresholds(0.01)
    assert pixel_hits((truth == 1).astype(float), truth, steps=steps).px_ap == pytest.approx(1)
    rate = (truth == 1).sum() / (truth != 255).sum()
    for value in (0.0, 0.5, 1.0):
        assert pixel_hits(np.full(truth.shape, value), truth, steps=steps).px_ap == pytest.approx(rate)


def test_px_ap_without_foreground_is_refused() -> None:
    with pytest.raises(ValueError, match="no foreground"):
        _ = pixel_hits(np.ones((4, 4)), np.zeros((4, 4)), steps=thresholds(0.1)).px_ap


def test_px_ap_with_a_bin_for_each_value_is_the_average_precision() -> None:
    rng = np.random.default_rng(0)
    values, truth = rng.integers(0, 100, (30, 30)) / 100, rng.integers(0, 2, (30, 30))
    found = pixel_hits(values, truth, steps=np.arange(100) / 100)
    assert found.px_ap == pytest.approx(average_precision(values.ravel(), truth.ravel() == 1))


def test_pixel_hits_add_up() -> None:
    truth = (MAPS["two"] > 0.4).astype(np.uint8)
    steps = thresholds(0.05)
    parts = [pixel_hits(MAPS["two"][rows], truth[rows], steps=steps) for rows in (slice(0, 90), slice(90, None))]
    whole = sum(parts, PixelHits.zeros(len(steps)))
    assert whole.px_ap == pytest.approx(pixel_hits(MAPS["two"], truth, steps=steps).px_ap)


def test_the_centred_box_finds_a_centred_object_only() -> None:
    truth = np.array([[56, 56, 167, 167]])
    found = box_hits(centre_ious(SIDE, SIDE, truth, steps=STEPS)[None], np.array([0]))
    assert found.max_box_acc == 1
    assert STEPS[found.best(2)] == pytest.approx(0.5, abs=0.1)
    corner = centre_ious(SIDE, SIDE, np.array([[0, 0, 40, 40]]), steps=STEPS)
    assert box_hits(corner[None], np.array([0])).max_box_acc == 0


def test_the_coverage_of_boxes_counts_each_of_their_pixels_once():
    heatmap = np.zeros((6, 8))
    heatmap[1:4, 1:5] = 0.2
    assert box_coverage(heatmap, np.array([[1, 1, 4, 3]])) == 1
    assert box_coverage(heatmap, np.array([[0, 0, 7, 5]])) == 12 / 48
    assert box_coverage(heatmap, np.array([[1, 1, 4, 3], [1, 1, 4, 3], [7, 5, 7, 5]])) == 12 / 13
    assert box_coverage(heatmap, np.array([[1, 1, 4, 3]]), threshold=0.21) == 0
