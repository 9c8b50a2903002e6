"""The score tables of a run equal those of the metrics on the whole set, and pycocotools."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.dataset import dataset
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.bulk.detection.config import DetectConfig
from pipeline.bulk.detection.page import curve_charts, proposal_blocks
from pipeline.bulk.detection.prepared import Detected
from pipeline.bulk.detection.report import format_scores
from pipeline.bulk.detection.run import DetectionRun
from pipeline.bulk.detection.tables import CURVES, PROPOSALS, SCORES, best_thresholds, run_tables
from pipeline.bulk.detection.truth import boxes_to_json
from pipeline.bulk.fetch import Fetched
from pipeline.card import Card
from pipeline.data.box_annotations import ObjectBox
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import DetectorInput, ProposalOptions
from pipeline.metrics.detection import DetectionCounts, count_detections, curve
from pipeline.metrics.matching import Detections, Truth
from pipeline.metrics.proposals import BUDGETS, IOUS, ProposalRecall, count_proposals
from pipeline.report.blocks import Chart, Table
from tests.support.boxes import random_boxes, random_image

CLASSES = Classes(names=("cat", "dog", "newt", "owl"))  # no image shows an owl
FACTOR = 2.0  # so that there are small, medium and large boxes


def detection_run(**options: Any) -> DetectionRun:
    config = DetectConfig(model="-", images="-", output="-", truth="-", **options)
    card = Card(
        architecture="fast_rcnn_alexnet",
        options={},
        classes=CLASSES,
        detector=DetectorInput(proposals=ProposalOptions()),
    )
    return DetectionRun(config, card)


def as_json(truth: Truth) -> str:
    columns = (truth.boxes.tolist(), truth.labels.tolist(), truth.difficult.tolist(), truth.crowd.tolist())
    return boxes_to_json(
        ObjectBox(CLASSES.names[label], box[0], box[1], box[2], box[3], difficult, crowd)
        for box, label, difficult, crowd in zip(*columns, strict=True)
    )


def random_set(seed: int, images: int) -> list[tuple[Detections, Truth, np.ndarray]]:
    """Detections in the order of their scores, true boxes of positive area that differ, and proposals."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(images):
        detections, truth = random_image(rng, num_classes=3, levels=(4, 1000)[seed % 2])
        order = np.argsort(-detections.scores, kind="stable")
        detections = Detections.of(
            (FACTOR * detections.boxes[order]).clip(0, 100 * FACTOR),
            detections.labels[order],
            detections.scores[order].astype(np.float32),
        )
        _, first = np.unique(np.column_stack([truth.labels, truth.boxes]), axis=0, return_index=True)
        keep = [i for i in sorted(first) if (truth.boxes[i, 2:] > truth.boxes[i, :2]).all()]
        truth = Truth(FACTOR * truth.boxes[keep], truth.labels[keep], truth.difficult[keep], truth.crowd[keep])
        found.append((detections, truth, FACTOR * random_boxes(rng, int(rng.integers(0, 40)))))
    return found


def dataset_of(kind: DetectionRun, images: list[tuple[Detections, Truth, np.ndarray]], folder: Path) -> Any:
    """Write the rows that a run would have, with an error row and an image without truth among them, in two files."""
    side = int(100 * FACTOR)
    rows: list[dict[str, Any]] = []

    def add(**columns: Any) -> None:
        given = {"image_id": f"{len(rows):03}.png", "uri": "-", "status": "ok", "shard": 0, "width": side}
        rows.append(dict.fromkeys(schema.names) | given | {"height": side} | columns)

    schema = kind.images_schema({})
    for i, (detections, truth, proposals) in enumerate(images):
        if i == 2:
            add(status="error")
        detected = Detected(
            (side, side),
            detections.boxes.astype(np.float32),
            detections.labels,
            detections.scores.astype(np.float32),
            50,
            1.0,
            len(proposals),
            1.0,
            proposals.astype(np.float32),
        )
        add(**kind.row(Fetched("-", truth=as_json(truth), width=side, height=side), detected))
        if i == 3:
            add(**kind.row(Fetched("-", truth=None, width=side, height=side), detected))
    half = len(rows) // 2
    files = []
    for name, some in (("a", rows[:half]), ("b", rows[half:])):
        files.append(str(folder / f"{name}.parquet"))
        pq.write_table(pa.Table.from_pylist(some, schema=schema), files[-1], row_group_size=3)
    return dataset(files, format="parquet")


def pycocotools_scores(images: list[tuple[Detections, Truth, np.ndarray]]) -> np.ndarray:
    """AP of each class: over ten IoUs, at 0.5, at 0.75, small, medium, large; NaN for classes without boxes."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []

    def xywh(box: np.ndarray) -> list[float]:
        return [*map(float, box[:2]), *map(float, box[2:] - box[:2])]

    for i, (detections, truth, _) in enumerate(images):
        for box, label, crowd in zip(truth.boxes, truth.labels, truth.crowd, strict=True):
            area = float(np.prod(box[2:] - box[:2]))
            one = {"image_id": i, "category_id": int(label), "bbox": xywh(box), "area": area, "iscrowd": int(crowd)}
            annotations.append(one | {"id": len(annotations) + 1})
        results += [
            {"image_id": i, "category_id": int(label), "bbox": xywh(box), "score": float(score)}
            for box, label, score in zip(detections.boxes, detections.labels, detections.scores, strict=True)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        truths = COCO()
        truths.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(len(images))],
            "categories": [{"id": c} for c in range(len(CLASSES))],
            "annotations": annotations,
        }
        truths.createIndex()
        evaluation = COCOeval(truths, truths.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.where(evaluation.eval["precision"] < 0, np.nan, evaluation.eval["precision"])[..., -1]
    by_area = precision.mean(axis=1).transpose(2, 0, 1)  # areas, thresholds, classes
    columns = [by_area[0].mean(axis=0), by_area[0, 0], by_area[0, 5], *(by_area[a].mean(axis=0) for a in (1, 2, 3))]
    return np.stack(columns, axis=1)


def column(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([np.nan if row[name] is None else row[name] for row in rows], float)


@pytest.mark.parametrize("seed", range(4))
def test_the_tables_are_those_of_the_metrics_on_the_whole_set(seed: int, tmp_path: Path) -> None:
    images = random_set(seed, 30)
    tables = run_tables(dataset_of(detection_run(), images, tmp_path), CLASSES)
    parts = [count_detections(d, t, num_classes=len(CLASSES), order=i) for i, (d, t, _) in enumerate(images)]
    counts = DetectionCounts.merged(parts)
    *rows, total = tables[SCORES].to_pylist()
    assert [row["class"] for row in rows] == list(CLASSES.names)
    for name in ("voc07", "voc10", "coco", "coco50", "coco75"):
        np.testing.assert_allclose(column(rows, name), getattr(counts.scores, name), rtol=0, atol=1e-12)
        assert total[name] == pytest.approx(counts.scores.means[name], abs=1e-12)
    assert [row["boxes"] for row in rows] == counts.voc.positives.tolist()
    assert [row["detections"] for row in rows] == np.bincount(counts.voc.labels, minlength=4).tolist()
    shown = np.array([[(t.labels == k).any() for k in range(4)] for _, t, _ in images])
    assert [row["images"] for row in rows] == shown.sum(axis=0).tolist()
    assert total["images"] == len(images)
    assert total["not_counted"] == sum(int(t.ignored.sum()) for _, t, _ in images)
    for k, name in enumerate(CLASSES.names[:3]):
        points = curve(counts.voc, k)
        mine = [row for row in tables[CURVES].to_pylist() if row["class"] == name]
        at = np.array([row["detections"] for row in mine]) - 1
        np.testing.assert_allclose([row["precision"] for row in mine], points.precision[at])
        np.testing.assert_allclose([row["recall"] for row in mine], points.recall[at])
        assert mine[-1]["recall"] == pytest.approx(points.recall[-1])
        f1 = 2 * points.right / (np.arange(1, len(points.right) + 1) + points.positives)
        assert rows[k]["best_f1"] == pytest.approx(f1.max())
    recall = ProposalRecall.zeros()
    for _, truth, proposals in images:
        recall += count_proposals(proposals, truth)
    found = {(row["iou"], row["proposals"]): row["recall"] for row in tables[PROPOSALS].to_pylist()}
    assert len(found) == len(IOUS) * 5
    for i, iou in enumerate(IOUS):
        for b, budget in enumerate(BUDGETS[:5]):  # no image has more than 39 proposals
            assert found[iou, budget] == pytest.approx(recall.recall[i, b])


@pytest.mark.parametrize("seed", range(4))
def test_the_coco_scores_are_those_of_pycocotools_also_by_size(seed: int, tmp_path: Path) -> None:
    images = [
        (d, Truth(t.boxes, t.labels, np.zeros(len(t.labels), bool), t.crowd), p) for d, t, p in random_set(seed, 30)
    ]
    tables = run_tables(dataset_of(detection_run(), images, tmp_path), CLASSES)
    rows = tables[SCORES].to_pylist()[:-1]
    names = ("coco", "coco50", "coco75", "coco_small", "coco_medium", "coco_large")
    found = np.stack([column(rows, name) for name in names], axis=1)
    np.testing.assert_allclose(found, pycocotools_scores(images), rtol=0, atol=1e-12)
    assert (np.nanmax(found, axis=0) > 0).all()  # each size occurs


def test_the_page_and_the_terminal_show_the_scores(tmp_path: Path) -> None:
    images = dataset_of(detection_run(), random_set(1, 12), tmp_path)
    tables = run_tables(images, CLASSES)
    text = format_scores(tables)
    mean = tables[SCORES].to_pylist()[-1]
    assert f"{mean['voc07']:.4f}" in text
    assert "recall of the proposals at IoU 0.7" in text
    charts = curve_charts(tables)
    assert [chart.title.partition(":")[0] for chart in charts] == sorted(
        CLASSES.names[:3], key=lambda name: -next(r["boxes"] for r in tables[SCORES].to_pylist() if r["class"] == name)
    )
    assert max(x for x, _ in charts[0].lines[0].points) <= 1
    chart, table = proposal_blocks(tables[PROPOSALS])
    assert isinstance(chart, Chart)
    assert isinstance(table, Table)
    assert len(chart.lines) == len(table.headings) - 1
    assert set(best_thresholds(tables)) == set(CLASSES.names[:3])


def test_a_run_without_any_box_has_tables_without_scores(tmp_path: Path) -> None:
    no, none = np.zeros(0), np.zeros((0, 4))
    nothing = [(Detections.of(none, no, no), Truth.of(none, no), none)] * 3
    images = dataset_of(detection_run(), nothing, tmp_path)
    tables = run_tables(images, CLASSES)
    assert tables[SCORES].to_pylist()[-1]["voc10"] is None
    assert len(tables[CURVES]) == 0
    assert curve_charts(tables) == []
    assert isinstance(proposal_blocks(tables[PROPOSALS])[0], Table)
    assert "0 images scored" not in format_scores(tables)
