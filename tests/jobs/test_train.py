"""Training on Ray Train from and to a real S3 server: what it leaves, resuming, and what it refuses."""

import io
import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import ray
import torch
from ray.util.state import list_actors
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline import bundle, storage
from pipeline.card import Card, read_card
from pipeline.data.classes import load_classes
from pipeline.data.datasets import pair, read_sample
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.transforms.augment import augment
from pipeline.data.transforms.config import Augmentation
from pipeline.errors import UserError
from pipeline.metrics.segmentation import confusion
from pipeline.models import configure
from pipeline.models.layers import SegmentationOutput
from pipeline.models.upsampling import upsample
from pipeline.predict.device import normalise
from pipeline.predict.segmenter import Segmenter
from pipeline.training.network import build_network
from pipeline.training.records import read_validation
from pipeline.training.run import check as check_task
from pipeline.training.segmentation.config import Split, TrainConfig
from pipeline.training.segmentation.losses import segmentation_loss
from pipeline.training.segmentation.task import segmentation_task
from pipeline.training.segmentation.validation import validate
from tests.support.jobs import REPO, command, kill_when, run_job, succeed, tiny_training

pytestmark = pytest.mark.timeout(600)  # whichever test comes first pays for the servers and the trained bundle
ROUNDING = 1e-4  # a few pixels of a mIoU: other processes have other threads, which may add up in another order


def test_trained_bundle_on_s3(trained_on_s3, scenes_on_s3):
    """The bundle's own validation gives the mIoU that was recorded for its epoch, the best one."""
    records = [json.loads(line) for line in storage.read_bytes(f"{trained_on_s3}/metrics.jsonl").splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert all(np.isfinite(record["loss"]) and record["images_per_s"] > 0 for record in records)

    model, card = bundle.load_bundle(trained_on_s3)
    best = max(records, key=lambda record: record["miou"])
    assert card.training["record"]["epoch"] == best["epoch"]
    samples = pair(f"{scenes_on_s3}/val/images", f"{scenes_on_s3}/val/labels").samples
    images = read_validation(trained_on_s3)
    assert sorted(image["key"] for image in images) == sorted(sample.key for sample in samples)
    page = storage.read_bytes(f"{trained_on_s3}/report.html").decode()
    assert page.count("data:image/png;base64,") == 3  # curves, worst and best images
    assert f"{best['miou']:.4f}" in page
    worst = min(images, key=lambda image: image["miou"])
    assert storage.exists(f"{scenes_on_s3}/val/images/{worst['key']}.jpg")
    segmenter = Segmenter(model, preprocessing=card.preprocessing, device=torch.device("cpu"))
    validated = validate(segmenter, samples, card.classes)
    assert validated.counts.scores.miou == pytest.approx(best["miou"], abs=ROUNDING)
    assert validated.unread == []


def test_the_same_command_again_has_nothing_to_do(trained_on_s3, scenes_on_s3, ray_head):
    text = succeed("train", environment=ray_head.environment, **tiny_training(scenes_on_s3, trained_on_s3))
    assert "all 2 epochs are done already" in text


def registered_epoch(output: str) -> int:
    """The epoch of the last checkpoint that Ray Train will find again, or 0."""
    url = f"{output}/checkpoints/checkpoint_manager_snapshot.json"
    if not storage.exists(url):
        return 0
    return json.loads(storage.read_bytes(url))["latest_checkpoint_result"]["metrics"]["epoch"]


def test_a_killed_run_goes_on_from_its_last_checkpoint(s3, scenes_on_s3, ray_head):
    """The driver dies with the first checkpoint registered and others to come: Ray registers one each time it looks,
    and an epoch may be recorded that has none yet. What a checkpoint holds is not done again, timings tell."""
    output = f"{s3}/killed-training"
    told = tiny_training(scenes_on_s3, output, epochs=6)
    slow = ray_head.environment | {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2"}  # 10 s from the first to the last
    kill_when(lambda: registered_epoch(output) > 0, "train", environment=slow, **told)
    registered = registered_epoch(output)
    before = storage.read_bytes(f"{output}/metrics.jsonl").splitlines()
    assert 1 <= registered <= len(before)
    assert registered < 6

    text = succeed("train", environment=ray_head.environment, **told)
    after = storage.read_bytes(f"{output}/metrics.jsonl").splitlines()
    assert "; resuming, " in text
    assert after[:registered] == before[:registered]
    assert [json.loads(line)["epoch"] for line in after] == [1, 2, 3, 4, 5, 6]

    # A run that nobody stopped ends with the same bits.
    straight = f"{s3}/straight-training"
    succeed("train", environment=ray_head.environment, **told | {"output": straight})
    one, other = (last_state(url) for url in (output, straight))
    assert one["epoch"] == other["epoch"] == 6
    assert one["network"].keys() == other["network"].keys()
    assert all(torch.equal(one["network"][name], other["network"][name]) for name in one["network"])
    assert read_card(output).weights_sha256 == read_card(straight).weights_sha256


def last_state(output: str) -> dict:
    """The content of the one checkpoint that is kept."""
    (file,) = [f for f in storage.list_files(f"{output}/checkpoints") if f.path.endswith("state.pt")]
    data = storage.read_bytes(f"s3://{file.path}")
    return torch.load(io.BytesIO(data), weights_only=True)


def test_a_killed_worker_is_replaced_and_goes_on(scenes, tmp_path, ray_head):
    output = tmp_path / "out"
    told = tiny_training(scenes, str(output), epochs=16)
    process = subprocess.Popen(
        command("train", **told), env=os.environ | ray_head.environment, stdout=subprocess.PIPE, text=True, cwd=REPO
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
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, 17))
    assert "best: epoch" in text


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(scenes, tmp_path, ray_head):
    told = tiny_training(scenes, str(tmp_path / "out"), epochs=3, optimiser__lr=1e25)
    result = run_job("train", environment=ray_head.environment, **told)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "the loss of step" in line
    assert "non_finite.json" in line
    found = json.loads((tmp_path / "out" / "non_finite.json").read_text())
    keys = {sample.key for sample in pair(f"{scenes}/train/images", f"{scenes}/train/labels").samples}
    assert len(found["images"]) == 4
    assert set(found["images"]) <= keys
    assert found["step"] > 1


def test_a_bundle_of_other_classes_gives_all_but_its_scores(scenes, tmp_path):
    """Of as many classes, too: a score of 'dog' is none of 'sky'."""
    told = config(scenes, output=tmp_path / "out")
    classes = load_classes(told.classes)
    torch.manual_seed(1)
    source = configure(told.model, told.model_options).build(len(classes))
    for names in (classes.names, tuple(f"other{k}" for k in range(len(classes)))):
        card = Card(
            architecture=told.model, options=told.model_options, classes=classes.model_copy(update={"names": names})
        )
        bundle.save_bundle(str(tmp_path / "source"), source, card)
        network, loaded = build_network(told.model_copy(update={"weights": str(tmp_path / "source")}), classes)
        same = {name: torch.equal(tensor, source.state_dict()[name]) for name, tensor in network.state_dict().items()}
        assert same["backbone.layer3.0.conv1.weight"]
        assert same["classifier.1.weight"]
        assert same["classifier.4.weight"] == (names == classes.names)
        assert ("classifier.4.weight" in loaded.fresh) == (names != classes.names)
        assert ("left as initialised" in str(loaded)) == (names != classes.names)


def test_two_workers_share_the_work(scenes, tmp_path, ray_head):
    """They train one network: its validation alone gives what they recorded together."""
    out, mlflow = tmp_path / "out", tmp_path / "mlflow"
    told = tiny_training(scenes, str(out), epochs=1, scaling__num_workers=2)
    told |= {"batch_norm__mode": "synchronised", "tracking__tensorboard": True, "tracking__mlflow": True}
    tracked = {"MLFLOW_TRACKING_URI": mlflow.as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    succeed("train", environment=ray_head.environment | tracked, **told)
    (record,) = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    model, card = bundle.load_bundle(str(tmp_path / "out"))
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


def check(config: TrainConfig) -> None:
    check_task(config, segmentation_task(config))


def config(scenes, *, output, **changes) -> TrainConfig:
    return TrainConfig(
        **{
            "model": "deeplabv3_resnet18",
            "model_options": {"width": "0.125"},
            "train": Split(images=f"{scenes}/train/images", labels=f"{scenes}/train/labels"),
            "val": Split(images=f"{scenes}/val/images", labels=f"{scenes}/val/labels"),
            "classes": f"{scenes}/classes.yaml",
            "output": str(output),
        }
        | changes
    )


def nowhere(part: str, scenes) -> Split:
    return Split(images=f"{scenes}/{part}/no-such-folder", labels=f"{scenes}/{part}/labels")


def test_refused_before_any_worker_starts(scenes, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    cases = [
        ({"model": "deeplab"}, "unknown model 'deeplab'"),
        ({"model_options": {"depth": "17"}}, "option 'depth'"),
        ({"model_options": {"with": "0.5"}}, "option 'with'"),
        ({"train": nowhere("train", scenes)}, "no images in"),
        ({"train": Split(images="s3://no-such-bucket-here/x", labels="s3://no-such-bucket-here/y")}, "no-such-bucket"),
        ({"classes": f"{scenes}/none.yaml"}, "none.yaml: it does not exist"),
        ({"output": str(tmp_path / "file" / "below")}, "cannot write to the output"),
        ({"weights": str(tmp_path / "weights.pth")}, "not a checkpoint"),
        ({"batch_size": 1}, "needs at least 2 images per worker"),
        ({"batch_size": 3, "scaling": {"num_workers": 2}}, "needs at least 2 images per worker"),
        ({"scaling": {"num_workers": 2, "min_workers": 3}}, "--scaling.min_workers 3 is above"),
        ({"freeze": ("backbone.layer9",)}, "--freeze backbone.layer9: no parameter begins so; there are backbone.bn1"),
        ({"freeze": ("backbone", "classifier")}, "nothing is left to learn"),
        ({"optimiser": {"lr_of": {"heads": 10}}}, "--optimiser.lr_of heads: neither a role"),
        ({"loss": {"class_weights": (1.0, 2.0)}}, "--loss.class_weights has 2 numbers for 6 classes"),
    ]
    for changes, expected in cases:
        with pytest.raises(UserError) as caught:
            check(config(scenes, **{"output": tmp_path / "out"} | changes))
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not ray.is_initialized()


def test_another_run_in_the_output_is_not_overwritten(scenes, tmp_path):
    check(config(scenes, output=tmp_path / "out"))
    check(config(scenes, output=tmp_path / "out"))
    with pytest.raises(UserError, match="holds a run with another seed"):
        check(config(scenes, output=tmp_path / "out", seed=1))


def test_more_workers_than_cpus_are_refused_at_once(scenes_on_s3, s3, ray_head):
    told = tiny_training(scenes_on_s3, f"{s3}/too-many", batch_size=100, scaling__num_workers=50)
    result = run_job("train", environment=ray_head.environment, **told)
    assert result.returncode == 2
    assert "training needs 51 CPUs" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_value_outside_the_classes_stops_training_with_its_file(scenes, tmp_path, ray_head):
    classes = tmp_path / "classes.yaml"
    classes.write_text("names: [sky, grass, road]\n")
    result = run_job(
        "train", environment=ray_head.environment, **tiny_training(scenes, str(tmp_path / "out"), classes=classes)
    )
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert "values outside the classes" in line
    assert "/labels/scene_" in line
    assert "jobs/validate.py" in line


def test_loss_counts_labelled_pixels_only():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = torch.randint(0, 3, (2, 8, 8))
    labels[0] = 255
    told = {"ignore_index": 255, "stride": 2, "auxiliary_weight": 0.5}
    loss = segmentation_loss(SegmentationOutput(logits), labels, **told)
    alone = segmentation_loss(SegmentationOutput(logits[1:]), labels[1:], **told)
    assert torch.allclose(loss, alone)
    with_auxiliary = segmentation_loss(SegmentationOutput(logits, (logits,)), labels, **told)
    assert torch.allclose(with_auxiliary, 1.5 * loss)


def test_a_batch_of_nothing_but_ignored_pixels_has_a_finite_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.full((1, 8, 8), 255)
    loss = segmentation_loss(SegmentationOutput(logits), labels, ignore_index=255, stride=2, auxiliary_weight=0)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(logits.grad).all()


def test_overfits_eight_scenes(scenes):
    """Network, loss and optimiser learn: DeepLab reaches what it was shown."""
    classes = load_classes(f"{scenes}/classes.yaml")
    torch.manual_seed(0)
    samples = pair(f"{scenes}/train/images", f"{scenes}/train/labels").samples[:8]
    settings = Augmentation(crop=(96, 96), scale=(0.8, 0.8), flip=0)
    crops = [
        augment(
            *read_sample(sample, classes),
            settings=settings,
            ignore_index=255,
            fill=(0, 0, 0),
            rng=np.random.default_rng(i),
        )
        for i, sample in enumerate(samples)
    ]
    images = normalise(torch.from_numpy(np.stack([pixels for pixels, _ in crops])), Preprocessing())
    labels = torch.from_numpy(np.stack([label for _, label in crops])).long()
    model = configure("deeplabv3_resnet18", {"width": 0.25, "output_stride": 8}).build(len(classes)).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = segmentation_loss(model(images), labels, ignore_index=255, stride=8, auxiliary_weight=0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        predicted = upsample(model(images).logits, (96, 96), stride=8).argmax(dim=1)
    counts = confusion(labels.numpy(), predicted.numpy(), num_classes=len(classes), ignore_index=255)
    assert counts.scores.miou > 0.8
