"""Comparative studies: descriptions, trials that share steps and resume, verdicts, and a real study."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline import models
from pipeline.bulk.localization.config import LocalizeConfig
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.cli import merged
from pipeline.errors import UserError
from pipeline.studies import trials
from pipeline.studies.comparison import judge
from pipeline.studies.description import Description, names, read_description, resolve
from pipeline.studies.trials import Trials, read_score
from pipeline.training.classification.config import TrainClassifierConfig
from pipeline.training.segmentation.config import TrainConfig
from tests.support.jobs import REPO
from tests.support.ray_head import RayHead

SPLIT = {"images": "i", "labels": "l"}
# A step's options must be those of its job once the user's data is added.
CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "train": (TrainConfig, {"train": SPLIT, "val": SPLIT, "classes": "c.yaml", "output": "o"}),
    "train-classifier": (TrainClassifierConfig, {"train": {"images": "i"}, "val": {"images": "i"}, "output": "o"}),
    "segment": (SegmentConfig, {"images": "i", "output": "o"}),
    "localize": (LocalizeConfig, {"images": "i", "output": "o"}),
}
TWO: dict[str, Any] = {
    "claim": "b is better than a.",
    "paper": "Somebody, 2020",
    "published": "none",
    "steps": {"train": {"job": "train"}, "segment": {"job": "segment", "options": {"model": "{train}"}}},
    "variants": {"a": {"segment": {"batch": 1}}, "b": {"segment": {"batch": 2}}},
    "score": {"step": "segment", "table": "dataset_report", "column": "miou", "title": "mIoU"},
    "expect": [["a", "b"]],
    "seeds": 2,
}


@pytest.mark.parametrize("name", names())
def test_a_shipped_description_has_options_that_its_jobs_take(name):
    description = read_description(name)
    for variant in description.variants:
        for step, about in description.steps.items():
            config_type, data = CONFIGS[about.job]
            config = config_type(**merged(data, resolve(description, {}, variant, step)))
            if about.job.startswith("train"):
                models.configure(config.model, config.model_options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": {"a": {}, "b": {}}}, "'a' and 'b' differ in nothing"),
        ({"variants": {"a": {"tain": {}}, "b": {}}}, "there is no step 'tain'; there are train, segment"),
        ({"expect": [["a", "c"]]}, "there is no variant 'c'; there are a, b"),
        ({"score": TWO["score"] | {"step": "x"}}, "there is no step 'x'"),
        ({"variants": {"a": {}}}, "variants: "),
        ({"steps": {"train": {"job": "fly"}}}, "steps.train.job: "),
    ],
)
def test_a_wrong_description_is_refused_with_one_line(tmp_path, change, message):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(TWO | change, sort_keys=False))
    with pytest.raises(UserError, match="description of a study") as error:
        read_description(str(file))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_options_below_no_step_are_refused():
    with pytest.raises(UserError, match="no step 'epochs'; it has train, segment, and options belong below"):
        Trials(Description(**TWO), {"epochs": 3}, "folder", seeds=1)


def test_a_seed_among_the_options_of_a_training_is_refused():
    with pytest.raises(UserError, match=r"train\.seed: each trial has a seed of its own"):
        Trials(Description(**TWO), {"train": {"seed": 3}}, "folder", seeds=2)


@pytest.fixture
def jobs(monkeypatch) -> list[tuple[str, dict[str, Any]]]:
    """The jobs that ran, in place of real ones: a score of 0.5 + batch / 10, and for the seed 7 a failure."""
    ran: list[tuple[str, dict[str, Any]]] = []

    def run(job: str, options: dict[str, Any], folder: str) -> str | None:
        ran.append((job, options))
        if job == "train":
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / "metrics.jsonl").write_text(json.dumps({"miou": 0.4, "train_s": 1.0}) + "\n")
            return "error: out of luck" if options["seed"] == 1 else None
        table = Path(folder) / "run_id=result" / "dataset_report"
        table.mkdir(parents=True)
        rows = [{"stage": "network", "miou": 0.1}, {"stage": "crf", "miou": 0.5 + options["batch"] / 10}]
        trials.parquet.write_rows(str(table / "dataset_report.parquet"), rows)
        return None

    monkeypatch.setattr(trials, "_run_job", run)
    return ran


def test_shared_steps_run_once_and_finished_ones_not_again(tmp_path, jobs):
    study = Trials(Description(**TWO), {"train": {"epochs": 3}}, str(tmp_path), seeds=1)
    outcomes = study.run(parallel=2)
    assert [outcome.score for outcome in outcomes] == [0.6, 0.7]
    assert [job for job, _ in jobs].count("train") == 1
    assert len(jobs) == 3
    trained = jobs[0][1]
    assert trained == {"epochs": 3, "seed": 0}
    assert {options["model"] for job, options in jobs if job == "segment"} == {outcomes[0].results["train"]}
    again = Trials(Description(**TWO), {"train": {"epochs": 3}}, str(tmp_path), seeds=1).run(parallel=1)
    assert len(jobs) == 3
    assert [outcome.score for outcome in again] == [0.6, 0.7]
    Trials(Description(**TWO), {"train": {"epochs": 4}}, str(tmp_path), seeds=1).run(parallel=1)
    assert len(jobs) == 6


def test_a_failed_trial_has_its_reason_and_the_others_go_on(tmp_path, jobs):
    outcomes = Trials(Description(**TWO), {}, str(tmp_path), seeds=2).run(parallel=1)
    assert [(outcome.trial.seed, outcome.score, outcome.problem) for outcome in outcomes] == [
        (0, 0.6, None),
        (0, 0.7, None),
        (1, None, "train: error: out of luck"),
        (1, None, "train: error: out of luck"),
    ]
    before = len(jobs)
    Trials(Description(**TWO), {}, str(tmp_path), seeds=2).run(parallel=1)
    assert [options["seed"] for _, options in jobs[before:]] == [1]


def test_a_table_without_the_score_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot read the table of the score"):
        read_score(Description(**TWO).score, str(tmp_path))


def rows(**scores: list[float | None]) -> list[dict[str, Any]]:
    return [{"variant": name, "score": score} for name, values in scores.items() for score in values]


@pytest.mark.parametrize(
    ("scores", "verdict"),
    [
        ({"a": [0.50, 0.51, 0.49], "b": [0.60, 0.61, 0.62]}, "held"),
        ({"a": [0.60, 0.61, 0.62], "b": [0.50, 0.51, 0.49]}, "did not hold"),
        ({"a": [0.50, 0.60, 0.55], "b": [0.52, 0.61, 0.56]}, "undecided"),
        ({"a": [0.50], "b": [0.90]}, "undecided"),
        ({"a": [0.50, 0.51], "b": [None, None]}, "undecided"),
        ({"a": [0.5, 0.5], "b": [0.6, 0.6]}, "held"),
        ({"a": [0.5, 0.5], "b": [0.5, 0.5]}, "undecided"),
    ],
)
def test_the_verdict_weighs_the_difference_against_the_spread_over_seeds(scores, verdict):
    assert judge(Description(**TWO), rows(**scores)).verdict == verdict


def test_a_real_study_of_which_one_variant_fails(scenes, tmp_path, ray_head: RayHead):
    description = TWO | {
        "steps": {"train": {"job": "train"}},
        "variants": {
            "good": {"train": {"model_options": {"width": 0.125}}},
            "bad": {"train": {"model_options": {"depth": 19}}},
        },
        "score": {"step": "train", "column": "miou", "title": "validation mIoU"},
        "expect": [["bad", "good"]],
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    data = {
        part: {"images": f"{scenes}/{part}/images", "labels": f"{scenes}/{part}/labels"} for part in ("train", "val")
    }
    options = {"model": "deeplabv3_resnet18", "classes": f"{scenes}/classes.yaml", "epochs": 2, "batch_size": 4}
    own = {"train": data | options | {"augmentation": {"crop": [64, 64]}}}
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(own))
    arguments = ["study", "mine.yaml", "--options", "options.yaml", "--output", "studies", "--seeds", "1"]
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        env=os.environ | ray_head.environment | {"PYTHONPATH": str(REPO)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "undecided: b is better than a." in result.stdout
    folder = tmp_path / "studies" / "study_id=mine"
    good, bad = sorted(pq.read_table(folder / "trials.parquet").to_pylist(), key=lambda row: row["variant"] == "bad")
    assert 0 < good["score"] <= 1
    assert good["parameters"] > 10_000
    assert good["train_seconds_per_epoch"] > 0
    assert good["score_at_equal_time"] == good["score"]
    assert bad["score"] is None
    assert "depth" in bad["problem"]
    summary = pq.read_table(folder / "summary.parquet").to_pylist()
    assert [(row["variant"], row["trials"], row["failed"]) for row in summary] == [("good", 1, 0), ("bad", 0, 1)]
    assert "Failed trials" in (folder / "report.html").read_text()
    assert (folder / "figure.svg").stat().st_size > 1000


@pytest.mark.skipif(sys.platform != "linux", reason="a process learns of its parent's death on Linux alone")
def test_a_trial_ends_with_the_study(tmp_path):
    """The job of a trial waits for a store whose answer never ends, and the study is killed."""
    with socket.create_server(("127.0.0.1", 0)) as store:
        store.settimeout(120)
        split = {"images": "s3://b/i", "labels": "s3://b/l"}
        options = {"model": "segnet", "classes": "s3://b/classes.yaml", "train": split, "val": split}
        program = f"from pipeline.studies.trials import _run_job; _run_job('train', {options}, {str(tmp_path)!r})"
        environment = os.environ | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }
        study = subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=REPO)
        try:
            trial, _ = store.accept()
        finally:
            study.kill()
        study.wait()
        trial.sendall(b"HTTP/1.1 200 OK\r\nX-Never: ")
        with trial, pytest.raises(ConnectionError):
            _drip(trial)


def _drip(connection: socket.socket) -> None:
    for _ in range(120):
        connection.sendall(b"e")
        time.sleep(0.5)
