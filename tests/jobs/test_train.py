"""Training on Ray Train from and to a real S3 server: results, resuming, and refused configurations."""

import io
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.util.state import list_actors
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from pipeline import bundle, storage
from pipeline.card import Card, read_card
from pipeline.data.classes import load_classes
from pipeline.data.datasets import pair
from pipeline.errors import UserError
from pipeline.models import configure
from pipeline.predict.segmenter import Segmenter
from pipeline.training.network import build_network
from pipeline.training.records import read_validation
from pipeline.training.run import check
from pipeline.training.segmentation.config import Split, TrainConfig
from pipeline.training.segmentation.task import segmentation_task
from pipeline.training.segmentation.validation import validate
from tests.support.jobs import REPO, command, kill_when, run_job, succeed, tiny_training
from tests.support.ray_head import RayHead

pytestmark = pytest.mark.timeout(600)  # the first test also starts the servers and trains the bundle
# mIoU of a few pixels: processes with other numbers of threads add up in another order, which can change a near tie.
ROUNDING = 1e-4


def read_records(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in storage.read_bytes(f"{output}/metrics.jsonl").splitlines()]


def error_line(result: subprocess.CompletedProcess) -> str:
    """Return the only error line of a job that a user's mistake has ended."""
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    return line


def test_trained_bundle_on_s3(trained_on_s3: str, scenes_on_s3: str) -> None:
    """The bundle is from the best epoch, and validating it again gives the recorded mIoU."""
    records = read_records(trained_on_s3)
    assert [record["epoch"] for record in records] == [1, 2]
    assert all(np.isfinite(record["loss"]) and record["images_per_s"] > 0 for record in records)

    model, card = bundle.load_bundle(trained_on_s3)
    best = max(records, key=lambda record: record["miou"])
    assert card.training is not None
    assert card.training["record"]["epoch"] == best["epoch"]
    samples = pair(f"{scenes_on_s3}/val/images", f"{scenes_on_s3}/val/labels").samples
    images = read_validation(trained_on_s3)
    assert sorted(image["key"] for image in images) == sorted(sample.key for sample in samples)
    page = storage.read_bytes(f"{trained_on_s3}/report.html").decode()
    assert page.count("data:image/png;base64,") == 2  # worst and best images
    assert page.count('<figure class="chart">') == 5
    assert f"{best['miou']:.4f}" in page
    worst = min(images, key=lambda image: image["miou"])
    assert storage.exists(f"{scenes_on_s3}/val/images/{worst['key']}.jpg")
    segmenter = Segmenter(model, preprocessing=card.preprocessing, device=torch.device("cpu"))
    validated = validate(segmenter, samples, card.classes)
    assert validated.counts.scores.miou == pytest.approx(best["miou"], abs=ROUNDING)
    assert validated.unread == []


def test_the_same_command_again_has_nothing_to_do(trained_on_s3: str, scenes_on_s3: str, ray_head: RayHead) -> None:
    text = succeed("train", environment=ray_head.environment, **tiny_training(scenes_on_s3, trained_on_s3))
    assert "all 2 epochs are done already" in text


def registered_epoch(output: str) -> int:
    """Return the epoch of the last checkpoint that Ray Train will find again, or 0."""
    url = f"{output}/checkpoints/checkpoint_manager_snapshot.json"
    if not storage.exists(url):
        return 0
    return json.loads(storage.read_bytes(url))["latest_checkpoint_result"]["metrics"]["epoch"]


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    s3: str, scenes_on_s3: str, scenes: str, tmp_path: Path, ray_head: RayHead
) -> None:
    """The driver is killed when the first checkpoint is registered and others are not.

    Ray registers one checkpoint at each health check, so epochs without a registered checkpoint may be recorded. Epochs
    with one are not repeated: their records, which contain timings, stay the same.
    """
    output = f"{s3}/killed-training"
    options = tiny_training(scenes_on_s3, output, epochs=4)
    slow = ray_head.environment | {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2"}  # 6 s from the first to the last
    kill_when(lambda: registered_epoch(output) > 0, "train", environment=slow, **options)
    registered = registered_epoch(output)
    before = storage.read_bytes(f"{output}/metrics.jsonl").splitlines()
    assert 1 <= registered <= len(before)
    assert registered < 4

    text = succeed("train", environment=ray_head.environment, **options)
    after = storage.read_bytes(f"{output}/metrics.jsonl").splitlines()
    assert "; resuming, " in text
    assert after[:registered] == before[:registered]
    assert [json.loads(line)["epoch"] for line in after] == [1, 2, 3, 4]

    # An uninterrupted run, here from and to local files, ends with the same bits.
    uninterrupted = str(tmp_path / "out")
    succeed("train", environment=ray_head.environment, **tiny_training(scenes, uninterrupted, epochs=4))
    states = [last_state(url) for url in (output, uninterrupted)]
    assert [state["epoch"] for state in states] == [4, 4]
    torch.testing.assert_close(states[0]["network"], states[1]["network"], rtol=0, atol=0)
    assert read_card(output).weights_sha256 == read_card(uninterrupted).weights_sha256


def test_sigterm_stops_a_run_with_one_line(scenes: str, tmp_path: Path, ray_head: RayHead) -> None:
    output = str(tmp_path / "out")
    options = tiny_training(scenes, output, epochs=500)
    metrics = tmp_path / "out" / "metrics.jsonl"
    code, text = kill_when(metrics.exists, "train", number=signal.SIGTERM, environment=ray_head.environment, **options)
    *_, line = text.splitlines()
    assert code == 3
    assert re.fullmatch(
        r"error: stopped by SIGTERM: \d+ of 500 epochs are done; the same command resumes the run", line
    )
    assert "Traceback" not in text
    assert "***" not in text


def last_state(output: str) -> dict[str, Any]:
    """Return the content of the only checkpoint that is kept."""
    (file,) = [f for f in storage.list_files(f"{output}/checkpoints") if f.path.endswith("state.pt")]
    data = storage.read_bytes(storage.url_of(storage.filesystem(output)[0], file.path))
    return torch.load(io.BytesIO(data), weights_only=True)


def test_a_killed_worker_is_replaced(scenes: str, tmp_path: Path, ray_head: RayHead) -> None:
    output = tmp_path / "out"
    options = tiny_training(scenes, str(output), epochs=16)
    process = subprocess.Popen(
        command("train", **options), env=os.environ | ray_head.environment, stdout=subprocess.PIPE, text=True, cwd=REPO
    )
    try:
        while registered_epoch(str(output)) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        workers = list_actors(
            address=ray_head.jobs, filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
        )
        os.kill(workers[0].pid, signal.SIGKILL)
        text, _ = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0
    assert [record["epoch"] for record in read_records(str(output))] == list(range(1, 17))
    assert "best: epoch" in text


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(
    scenes: str, tmp_path: Path, ray_head: RayHead
) -> None:
    """At this learning rate, the weights of the first step overflow float32 in the second forward pass."""
    options = tiny_training(scenes, str(tmp_path / "out"), epochs=3, optimiser__lr=1e25)
    line = error_line(run_job("train", environment=ray_head.environment, **options))
    assert "the loss of step" in line
    assert "non_finite.json" in line
    content = json.loads((tmp_path / "out" / "non_finite.json").read_text())
    keys = {sample.key for sample in pair(f"{scenes}/train/images", f"{scenes}/train/labels").samples}
    assert len(content["images"]) == 4
    assert set(content["images"]) <= keys
    assert content["step"] > 1


def test_a_bundle_of_other_classes_gives_all_layers_but_the_scores(scenes: str, tmp_path: Path) -> None:
    """This holds even for equally many classes: the weights of the class 'dog' do not fit the class 'sky'."""
    config = configuration(scenes, output=tmp_path / "out")
    classes = load_classes(config.classes)
    torch.manual_seed(1)
    source = configure(config.model, config.model_options).build(len(classes))
    for names in (classes.names, tuple(f"other{k}" for k in range(len(classes)))):
        card = Card(
            architecture=config.model, options=config.model_options, classes=classes.model_copy(update={"names": names})
        )
        bundle.save_bundle(str(tmp_path / "source"), source, card)
        network, loaded = build_network(config.model_copy(update={"weights": str(tmp_path / "source")}), classes)
        assert loaded is not None
        same = {name: torch.equal(tensor, source.state_dict()[name]) for name, tensor in network.state_dict().items()}
        assert same["backbone.layer3.0.conv1.weight"]
        assert same["classifier.1.weight"]
        assert same["classifier.4.weight"] == (names == classes.names)
        assert ("classifier.4.weight" in loaded.fresh) == (names != classes.names)
        assert ("left as initialised" in str(loaded)) == (names != classes.names)


def test_two_workers_train_one_network(scenes: str, tmp_path: Path, ray_head: RayHead) -> None:
    """A single process validates their network with the mIoU that they recorded together and sent to the trackers."""
    out, mlflow = tmp_path / "out", tmp_path / "mlflow"
    options = tiny_training(scenes, str(out), epochs=1, scaling__num_workers=2)
    options |= {"batch_norm__mode": "synchronised", "tracking__tensorboard": True, "tracking__mlflow": True}
    tracking = {"MLFLOW_TRACKING_URI": mlflow.as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    succeed("train", environment=ray_head.environment | tracking, **options)
    (record,) = read_records(str(out))
    model, card = bundle.load_bundle(str(out))
    segmenter = Segmenter(model, preprocessing=card.preprocessing, device=torch.device("cpu"))
    samples = pair(f"{scenes}/val/images", f"{scenes}/val/labels").samples
    counts = validate(segmenter, samples, card.classes).counts
    assert counts.scores.miou == pytest.approx(record["miou"], abs=ROUNDING)

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    (miou,) = events.Scalars("miou")
    assert (miou.step, miou.value) == (1, pytest.approx(record["miou"]))
    assert events.Tags()["images"] == ["confusion", "validation"]
    (metric,) = mlflow.glob("*/*/metrics/miou")
    assert float(metric.read_text().split()[1]) == pytest.approx(record["miou"])
    assert (metric.parent.parent / "tags" / "output").read_text() == str(out)


def check_run(config: TrainConfig) -> None:
    task, _ = segmentation_task(config)
    check(config, task)


def configuration(scenes: str, *, output: Path | str, **changes: Any) -> TrainConfig:
    options = {
        "model": "deeplabv3_resnet18",
        "model_options": {"width": "0.125"},
        "train": Split(images=f"{scenes}/train/images", labels=f"{scenes}/train/labels"),
        "val": Split(images=f"{scenes}/val/images", labels=f"{scenes}/val/labels"),
        "classes": f"{scenes}/classes.yaml",
        "output": str(output),
    }
    return TrainConfig.model_validate(options | changes)


def test_mistakes_are_refused_before_a_worker_starts(scenes: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    missing_images = Split(images=f"{scenes}/train/no-such-folder", labels=f"{scenes}/train/labels")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": "deeplab"}, "unknown model 'deeplab'"),
        ({"model_options": {"depth": "17"}}, "option 'depth'"),
        ({"model_options": {"with": "0.5"}}, "has no option 'with'; did you mean width?"),
        ({"train": missing_images}, "no images in"),
        ({"train": Split(images="s3://no-such-bucket-here/x", labels="s3://no-such-bucket-here/y")}, "no-such-bucket"),
        ({"classes": f"{scenes}/none.yaml"}, "none.yaml: it does not exist"),
        ({"output": str(tmp_path / "file" / "below")}, "cannot write to the output"),
        ({"weights": str(tmp_path / "weights.pth")}, "not a checkpoint"),
        ({"batch_size": 1}, "needs at least 2 images per worker"),
        ({"batch_size": 3, "scaling": {"num_workers": 2}}, "needs at least 2 images per worker"),
        ({"scaling": {"num_workers": 2, "min_workers": 3}}, "--scaling.min-workers 3 is above"),
        (
            {"freeze": ("backbone.layer9",)},
            "--freeze backbone.layer9: no parameter's name begins with it; there are backbone.bn1",
        ),
        ({"freeze": ("backbone", "classifier")}, "nothing is left to learn"),
        ({"optimiser": {"lr_of": {"heads": 10}}}, "--optimiser.lr-of heads: neither a role"),
        ({"loss": {"class_weights": (1.0, 2.0)}}, "--loss.class-weights has 2 numbers for 6 classes"),
        ({"loss": {"background": 6}}, "--loss.background 6: the 6 classes have the indices 0 to 5"),
        ({"augmentation": {"background": 9}}, "--augmentation.background 9: the 6 classes have the indices 0 to 5"),
        ({"augmentation": {"paste_classes": (1, 7)}}, "--augmentation.paste-classes 7: the 6 classes have"),
    ]
    for changes, expected in cases:
        with pytest.raises(UserError) as caught:
            check_run(configuration(scenes, **{"output": tmp_path / "out"} | changes))
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not ray.is_initialized()


def test_another_run_in_the_output_is_not_overwritten(scenes: str, tmp_path: Path) -> None:
    for _ in range(2):  # the same run is accepted
        check_run(configuration(scenes, output=tmp_path / "out"))
    with pytest.raises(UserError, match="holds a run with another seed"):
        check_run(configuration(scenes, output=tmp_path / "out", seed=1))


def test_more_workers_than_cpus_are_refused_at_once(scenes: str, tmp_path: Path, ray_head: RayHead) -> None:
    options = tiny_training(scenes, str(tmp_path / "out"), batch_size=100, scaling__num_workers=50)
    assert "training needs 51 CPUs" in error_line(run_job("train", environment=ray_head.environment, **options))


def test_a_value_outside_the_classes_stops_training_and_names_its_file(
    scenes: str, tmp_path: Path, ray_head: RayHead
) -> None:
    classes = tmp_path / "classes.yaml"
    classes.write_text("names: [sky, grass, road]\n")
    # Without replacement of failed workers, which the test of the loss that is not finite includes.
    options = tiny_training(scenes, str(tmp_path / "out"), classes=classes, scaling__max_failures=0)
    line = error_line(run_job("train", environment=ray_head.environment, **options))
    assert "values outside the classes" in line
    assert "/labels/scene_" in line
    assert "segpipe validate" in line
