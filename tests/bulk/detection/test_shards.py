"""A shard of a detection run, computed in this process and its helper processes, without Ray."""

import multiprocessing
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline.bulk.detection.run import DetectionRun
from pipeline.bundle import load_bundle, save_bundle
from pipeline.data.box_annotations import read_boxes
from pipeline.data.images import decode_image, from_upright
from pipeline.data.proposals import propose
from pipeline.metrics.matching import Truth
from pipeline.metrics.proposals import count_proposals
from pipeline.models.detection.detector import DetectionNetwork
from pipeline.models.detection.fast_rcnn import FastRCNN
from pipeline.predict.detector import Detector
from tests.support.deadly import DEADLY
from tests.support.detections import (
    CLASSES,
    FAST_RCNN,
    PROPOSALS,
    DeadlyDetection,
    planned_detection,
    save_detector,
    save_fitted_detector,
    write_pictures,
)
from tests.support.shards import compute_shard

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, count=6)
    return folder


@pytest.fixture(scope="module")
def model(pictures: Path) -> str:
    save_fitted_detector(str(pictures / "model"), pictures)
    return str(pictures / "model")


def rows_of(run: str) -> list[dict[str, Any]]:
    return pq.read_table(f"{run}/_run/parts/part-00000.parquet").to_pylist()


def corners_of(row: dict[str, Any], column: str = "detections") -> np.ndarray:
    return np.array([[box[name] for name in CORNERS] for box in row[column]]).reshape(-1, 4)


def test_the_rows_are_those_of_a_plain_loop(pictures: Path, model: str, tmp_path: Path) -> None:
    kind, run = planned_detection(tmp_path, pictures, model, truth=str(pictures / "boxes.csv"))
    compute_shard(kind, run)
    network, card = load_bundle(model)
    assert card.detector is not None
    assert isinstance(network, DetectionNetwork)
    plain = Detector(
        network,
        detector_input=card.detector,
        preprocessing=card.preprocessing,
        device=torch.device("cpu"),
    )
    known = read_boxes(str(pictures / "boxes.csv"))
    rows = rows_of(run)
    assert len(rows) == 6
    for row in rows:
        pixels = decode_image((pictures / "images" / row["image_id"]).read_bytes()).pixels
        proposals = propose(pixels, PROPOSALS)
        (found,) = plain([pixels], [proposals])
        assert [box["class"] for box in row["detections"]] == [CLASSES.names[k] for k in found.labels]
        # The run computes batches of all images.
        np.testing.assert_allclose([box["score"] for box in row["detections"]], found.scores, rtol=1e-3)
        np.testing.assert_allclose(corners_of(row), found.boxes, atol=0.01)
        assert (row["candidates"], row["proposals"]) == (found.candidates, len(proposals))
        assert all(row[name] > 0 for name in ("t_propose_ms", "t_select_ms", "t_infer_ms", "t_decode_ms"))
        boxes = known.find(row["image_id"].removesuffix(".png"))
        assert boxes is not None
        np.testing.assert_array_equal(corners_of(row, "truth"), np.array([b.corners for b in boxes]).reshape(-1, 4))
        expected = count_proposals(proposals, Truth.of(corners_of(row, "truth"), np.zeros(len(boxes))))
        assert row["proposals_found"] == expected.found.ravel().tolist()
    assert any(box["correct"] for row in rows for box in row["detections"])


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_boxes_lie_on_the_stored_pixels(orientation: int, pictures: Path, model: str, tmp_path: Path) -> None:
    """An upright picture, stored turned: its boxes are those of the upright picture, turned."""
    (tmp_path / "images").mkdir()
    upright = np.zeros((96, 160, 3), np.uint8)
    upright[:, :96] = np.asarray(Image.open(sorted((pictures / "images").iterdir())[0]).convert("RGB"))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(from_upright(upright, orientation))
    Image.fromarray(stored).save(tmp_path / "images" / "a.png", exif=exif)
    Image.fromarray(upright).save(tmp_path / "images" / "b.png")
    kind, run = planned_detection(tmp_path, tmp_path, model, longest_side=128, min_score=0.01)
    compute_shard(kind, run)
    turned, plain = rows_of(run)
    assert (turned["height"], turned["width"]) == stored.shape[:2]
    assert len(plain["detections"]) > 0
    for boxes, row in ((corners_of(turned), turned), (corners_of(plain), plain)):
        assert (boxes >= 0).all()
        assert (boxes <= [row["width"], row["height"]] * 2).all()
    drawn = [np.zeros(stored.shape[:2]), np.zeros(upright.shape[:2])]
    for (left, top, right, bottom), picture in ((corners_of(turned)[0], drawn[0]), (corners_of(plain)[0], drawn[1])):
        picture[round(top) : round(bottom), round(left) : round(right)] = 1
    assert drawn[1].any()
    np.testing.assert_array_equal(drawn[0], from_upright(drawn[1], orientation))


def test_strange_pictures_have_a_row(pictures: Path, model: str, tmp_path: Path) -> None:
    """One pixel, one row of pixels, one colour, and no picture at all."""
    (tmp_path / "images").mkdir()
    for name, size in {"dot": (1, 1), "line": (300, 1), "plain": (40, 30)}.items():
        Image.new("RGB", size, (9, 99, 199)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no picture")
    kind, run = planned_detection(tmp_path, tmp_path, model, min_score=0.0)
    compute_shard(kind, run)
    rows = {row["image_id"].removesuffix(".png"): row for row in rows_of(run)}
    assert (rows["broken"]["status"], rows["broken"]["error_stage"]) == ("error", "decode")
    assert rows["broken"]["detections"] is None
    for name in ("dot", "line", "plain"):
        assert rows[name]["status"] == "ok", rows[name]
        assert rows[name]["proposals"] >= 1
        assert (corners_of(rows[name]) <= [rows[name]["width"], rows[name]["height"]] * 2).all()


def test_scores_that_are_no_numbers_are_an_error_row(pictures: Path, model: str, tmp_path: Path) -> None:
    network, card = load_bundle(model)
    assert isinstance(network, FastRCNN)
    with torch.no_grad():
        network.score.weight[0, 0] = torch.nan
    save_bundle(str(tmp_path / "nan"), network, card)
    kind, run = planned_detection(tmp_path, pictures, str(tmp_path / "nan"))
    compute_shard(kind, run)
    assert {(row["status"], row["error_stage"], row["error_class"]) for row in rows_of(run)} == {
        ("error", "predict", "NotFiniteError")
    }


def test_options_change_the_choice_of_the_detector(pictures: Path, model: str, tmp_path: Path) -> None:
    kind, run = planned_detection(tmp_path / "own", pictures, model)
    compute_shard(kind, run)
    other, changed = planned_detection(tmp_path / "changed", pictures, model, min_score=0.0, max_detections=7)
    compute_shard(other, changed)
    for row, many in zip(rows_of(run), rows_of(changed), strict=True):
        assert all(box["score"] > 0.05 for box in row["detections"])  # Fast R-CNN's own
        assert len(many["detections"]) == 7
        assert many["candidates"] > row["candidates"]


@pytest.mark.parametrize("name", ["yolo_fast", "ssd"])
def test_a_detector_without_proposals_has_no_columns_of_proposals(name: str, pictures: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"width": 0.05, "grid": 2} if name == "yolo_fast" else {}
    save_detector(str(tmp_path / "model"), name=name, **options)
    kind, run = planned_detection(
        tmp_path, pictures, str(tmp_path / "model"), truth=str(pictures / "boxes.csv"), max_detections=3
    )
    compute_shard(kind, run)
    rows = rows_of(run)
    assert {row["status"] for row in rows} == {"ok"}
    assert not {"proposals", "t_propose_ms", "proposals_found"} & set(rows[0])
    assert kind.seconds_per_image == 0


def compute_in_a_process(kind: DetectionRun, run: str) -> int | None:
    """Compute the shard as a process of Ray does, and return its exit code."""
    processes = multiprocessing.get_context("spawn")
    process = processes.Process(target=compute_shard, args=(kind, run))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("step", ["prepare", "predict"])
def test_a_deadly_image_is_the_only_error_row(step: str, pictures: Path, tmp_path: Path) -> None:
    """While its proposals are computed, or in the network, where the shard is computed again with care."""
    (tmp_path / "images").mkdir()
    for i, file in enumerate(sorted((pictures / "images").iterdir())[:3]):
        Image.open(file).save(tmp_path / "images" / f"{i}.png")
    bad = np.full((96, 96, 3), 40, np.uint8)
    bad[0, 0] = DEADLY
    Image.fromarray(bad).save(tmp_path / "images" / "1.png")
    save_detector(str(tmp_path / "model"), **FAST_RCNN)
    kind, run = planned_detection(tmp_path, tmp_path, str(tmp_path / "model"))
    deadly = DeadlyDetection(kind, step=step)
    if step == "predict":
        assert compute_in_a_process(deadly, run) == -signal.SIGSEGV
        assert compute_in_a_process(deadly, run) == 0
    else:
        compute_shard(deadly, run)
    rows = rows_of(run)
    assert [row["status"] for row in rows] == ["ok", "error", "ok"]
    assert rows[1]["error_class"] == "ProcessDied"
    assert rows[1]["error_stage"] == {"prepare": "decode", "predict": "predict"}[step]
    assert all(row["detections"] is not None for row in rows if row["status"] == "ok")
