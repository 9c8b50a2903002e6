"""Detectors are trained through the real job: each family, resuming at every stage, several workers, bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from pipeline import bundle, parquet, storage
from pipeline.card import read_card
from pipeline.errors import UserError
from pipeline.models.detection.staged import StagedNetwork
from pipeline.training.detection.config import TrainDetectorConfig
from pipeline.training.detection.task import detection_task
from pipeline.training.records import read_records, read_validation
from pipeline.training.run import check, train
from tests.support.drawn_boxes import write_boxed_shapes
from tests.support.jobs import kill_when, run_job, succeed
from tests.support.ray_head import RayHead

pytestmark = pytest.mark.timeout(900)  # the first test also starts the servers

FAMILIES: dict[str, dict[str, Any]] = {
    "rcnn_alexnet": {"width": 0.05, "crop": 64, "regions": 8},
    "sppnet_alexnet": {"width": 0.05, "scales": [96], "pyramid": [1, 2], "regions": 8},
    "fast_rcnn_alexnet": {"width": 0.05, "short_side": 96, "regions": 8},
    "yolo_fast": {"width": 0.05, "grid": 2, "batch_norm": True},
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few pictures; one of the training pictures cannot be decoded."""
    folder = tmp_path_factory.mktemp("boxed")
    for seed, (name, count) in enumerate({"train": 14, "val": 8}.items()):
        write_boxed_shapes(folder / name, count=count, seed=seed)
    (folder / "train" / "images" / "broken.png").write_bytes(b"no image")
    with (folder / "train" / "boxes.csv").open("a") as file:
        file.write("broken.png,disc,1,2,30,40\n")
    return folder


def options(shapes: Path, output: Path, model: str, boxes: str = "boxes.csv", **changes: Any) -> dict[str, Any]:
    """Return options of `segpipe train-detector` that train a tiny detector."""
    data = {
        f"{part}__{name}": f"{shapes}/{part}/{place}"
        for part in ("train", "val")
        for name, place in (("images", "images"), ("boxes", boxes))
    }
    return {
        "model": model,
        "model_options": ",".join(f"{name}={value}" for name, value in FAMILIES[model].items()),
        **data,
        "output": output,
        "epochs": 1,
        "batch_size": 4,
        "proposals__limit": 60,
        "optimiser__kind": "adam",
        "optimiser__lr": 0.001,
    } | changes


def configuration(
    shapes: Path, output: Path, name: str, boxes: str = "boxes.csv", **changes: Any
) -> TrainDetectorConfig:
    """Return the same options as a configuration."""
    data = {
        part: {"images": f"{shapes}/{part}/images", "boxes": f"{shapes}/{part}/{boxes}"} for part in ("train", "val")
    }
    given: dict[str, Any] = {
        "model": name,
        "model_options": FAMILIES[name],
        "output": str(output),
        "epochs": 1,
        "batch_size": 4,
    }
    given |= {"proposals": {"limit": 60}, "optimiser": {"kind": "adam", "lr": 0.001}}
    return TrainDetectorConfig.model_validate(given | data | changes)


def train_here(config: TrainDetectorConfig) -> list[dict[str, Any]]:
    task, data = detection_task(config)
    return train(config, task, data)


def test_rcnn_goes_on_at_the_stage_in_which_it_was_killed(
    shapes: Path, tmp_path: Path, ray_head: RayHead, capsys: pytest.CaptureFixture
) -> None:
    """It is killed in fine-tuning, while it computes features, and once the SVMs are fitted; the result is the same."""
    output = tmp_path / "killed"
    stages, features = output / "stages", output / "stages" / "features"
    command = options(shapes, output, "rcnn_alexnet")
    for condition in (
        (output / "metrics.jsonl").exists,
        (features / "part-00000.truth.parquet").exists,
        (stages / "svms.npz").exists,
    ):
        kill_when(condition, "train_detector", environment=ray_head.environment, **command)
    before = {file: file.stat().st_mtime_ns for file in (*features.iterdir(), stages / "svms.npz")}
    surveys = {file: file.stat().st_mtime_ns for file in output.glob("survey/*/*")}
    assert "stages" not in read_card(str(output)).training
    text = succeed("train_detector", environment=ray_head.environment, **command)
    assert "SVMs and box regressors: mAP@.5" in text
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert {file: file.stat().st_mtime_ns for file in surveys} == surveys

    undisturbed = tmp_path / "undisturbed"
    succeed("train_detector", environment=ray_head.environment, **(command | {"output": undisturbed}))
    states = [bundle.load_bundle(str(url))[0].state_dict() for url in (output, undisturbed)]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert states[0]["svms_fitted"]
    assert states[0]["regressors_fitted"]
    scores = [json.loads((url / "stages" / "scores.json").read_text()) for url in (output, undisturbed)]
    assert scores[0] == scores[1]
    assert list(scores[0]) == ["softmax", "SVMs", "SVMs and box regressors"]
    assert read_card(str(output)).training["stages"] == scores[0]
    page = (output / "report.html").read_text()
    assert "<h2>Stages</h2>" in page
    assert "AP@.5, triangle" in page
    assert (output / "preview.png").stat().st_size > 1000
    again = succeed("train_detector", environment=ray_head.environment, **command)
    assert "all 1 epochs are done already" in again


@pytest.mark.parametrize(
    ("model", "boxes", "changes"),
    [
        ("sppnet_alexnet", "xml", {"optimiser": {"kind": "adam", "lr": 0.001, "ema": 0.5}}),
        ("fast_rcnn_alexnet", "boxes.json", {"scaling": {"num_workers": 2}, "tracking": {"tensorboard": True}}),
        ("yolo_fast", "boxes.csv", {"augmentation": {"jitter": 0.2}, "batch_norm": {"recompute": 2}}),
    ],
)
def test_a_detector_is_trained_and_its_bundle_has_the_recorded_scores(
    model: str, boxes: str, changes: dict[str, Any], shapes: Path, tmp_path: Path, ray_driver: None
) -> None:
    """A single process finds in the validation images what the workers found together."""
    config = configuration(shapes, tmp_path / "out", model, boxes, **changes)
    (record,) = train_here(config)
    assert np.isfinite(record["loss"])
    assert record["skipped"] == (boxes == "boxes.csv")
    assert set(record["ap50"]) == {"disc", "square", "triangle"}
    network, card = bundle.load_bundle(config.output)
    assert card.detector is not None
    assert (card.detector.proposals is None) == (model == "yolo_fast")
    task, _ = detection_task(config)
    device = torch.device("cpu")
    validated = task.validate(task.evaluator(network, device), task.validation)
    expected = record
    if isinstance(network, StagedNetwork):
        expected = card.training["stages"]["SVMs and box regressors"]
        assert parquet.read_table(f"{config.output}/stages/features/part-00000.pairs.parquet").num_rows > 0
    for name, score in validated.record(card.classes).items():
        assert score == pytest.approx(expected[name], abs=1e-6)
    rows = read_validation(config.output)
    assert sorted(row["key"] for row in rows) == sorted(row["key"] for row in validated.rows)
    assert all(row["detections"] >= 0 for row in rows)
    assert storage.exists(f"{config.output}/report.html")


def check_run(config: TrainDetectorConfig) -> None:
    task, _ = detection_task(config)
    check(config, task)


def test_mistakes_are_refused_before_a_worker_starts(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text("names: [disc, square]\n")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("yolo_fast", {"model": "yolo9"}, "unknown model 'yolo9'"),
        (
            "yolo_fast",
            {"model": "resnet18_cam", "model_options": {}},
            "is made for classification; for detection there",
        ),
        ("yolo_fast", {"model_options": {"cells": 3}}, "has no option 'cells'"),
        ("yolo_fast", {"classes": str(tmp_path / "classes.yaml")}, "'triangle' is not among the classes"),
        ("sppnet_alexnet", {"freeze": ["backbone", "fc6", "fc7", "score", "svms", "regressors"]}, "nothing is left"),
        ("sppnet_alexnet", {"freeze": ["conv1"]}, "--freeze conv1: no parameter's name begins with it"),
    ]
    for model, changes, expected in cases:
        with pytest.raises(UserError) as caught:
            check_run(configuration(shapes, tmp_path / "out", model, **changes))
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
    assert len(read_records(str(tmp_path / "out"))) == 0
    result = run_job("train_detector", **options(shapes, tmp_path / "out", "yolo_fast", compile=True))
    assert result.returncode == 2
    assert result.stderr.startswith("error: --compile: detectors cannot be compiled")


def test_validation_images_without_anything_to_find_are_refused(shapes: Path, tmp_path: Path, ray_driver: None) -> None:
    content = json.loads((shapes / "val" / "boxes.json").read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    (tmp_path / "crowds.json").write_text(json.dumps(content))
    val = {"images": f"{shapes}/val/images", "boxes": str(tmp_path / "crowds.json")}
    with pytest.raises(UserError, match="val: no image has a box that must be found"):
        train_here(configuration(shapes, tmp_path / "out", "yolo_fast", val=val))
    assert ray.is_initialized()
