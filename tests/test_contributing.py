"""The examples of CONTRIBUTING.md, read from the page and run."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
import torch
from ray import cloudpickle

from pipeline import commands, models
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.results import read_file
from pipeline.data.images import decode_image
from pipeline.models.layers import SegmentationOutput
from pipeline.training.learner import Learner
from pipeline.training.segmentation.config import TrainConfig
from pipeline.training.segmentation.losses import dice
from pipeline.training.segmentation.task import SegmentationObjective
from tests.support.jobs import REPO
from tests.support.runs import rows_of, the_run

PAGE = (REPO / "CONTRIBUTING.md").read_text()
BLOCK = re.compile(r"^([^\n]+)\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def example(mention: str) -> str:
    """The code below the line that mentions some text."""
    (code,) = [code for line, code in BLOCK.findall(PAGE) if mention in line]
    return code


def module(path: str, source: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module at a path of the repository with another source, for the duration of a test."""
    name = path.removesuffix(".py").replace("/", ".")
    made = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(source, f"{path} (CONTRIBUTING.md)", "exec"), vars(made))
    return made


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and labels of images of two noisy fields, whose colours are their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (8, 1, 2), generator=generator).repeat_interleave(24, 1).repeat_interleave(12, 2)
    noise = torch.randint(0, 56, (*labels.shape, 3), generator=generator)
    return (torch.nn.functional.one_hot(labels, 3) * 200 + noise).to(torch.uint8), labels


def test_the_architecture_trains(monkeypatch):
    tiny = module("pipeline/models/tiny.py", example("`pipeline/models/tiny.py`"), monkeypatch)
    for name, config in eval(f"{{{example('`ARCHITECTURES`')}}}", vars(tiny)).items():
        monkeypatch.setitem(models.ARCHITECTURES, name, config)
    network: Any = models.configure("tiny", {}).build(21)
    assert f"Parameters: {models.count_parameters(network):,} at 21 classes" in tiny.__doc__
    for size in ((1, 1), (33, 70)):
        logits = network.eval()(torch.zeros(2, 3, *size)).logits
        assert logits.shape == (2, 21, -(-size[0] // 4), -(-size[1] // 4))

    split = {"images": "/images", "labels": "/labels"}
    config = TrainConfig.model_validate(
        {"model": "tiny", "model_options": {"width": 0.5, "rate": 1}, "train": split, "val": split}
        | {"classes": "/classes.yaml", "output": "/out", "optimiser": {"lr": 0.05}}
    )
    torch.manual_seed(0)
    network = models.configure(config.model, config.model_options).build(3)
    objective = SegmentationObjective(config, ignore_index=255, stride=network.output_stride)
    learner = Learner(network, config=config, objective=objective, num_classes=3, steps=20, device=torch.device("cpu"))
    pixels, labels = batch()
    losses = [float(learner.step(pixels, labels, step=step)) for step in range(20)]
    assert losses[-1] < losses[0] / 2


def test_the_loss_term_is_learned_from(monkeypatch):
    """The page's changes are made to the sources of the two modules."""
    folder = "pipeline/training/segmentation"
    source = (REPO / folder / "config.py").read_text()
    source, found = re.subn(r"^LossTerm = .*\n", example("`LossTerm`"), source, flags=re.MULTILINE)
    assert found == 1
    config = module(f"{folder}/config.py", source, monkeypatch)
    assert "tversky" in get_args(config.LossTerm)

    source = (REPO / folder / "losses.py").read_text()
    assert source.count("\n    def loss_of_scores(") == 1
    source = source.replace("\n    def loss_of_scores(", f"{example('`loss_of_term`')}\n    def loss_of_scores(")
    losses = module(f"{folder}/losses.py", f"{source}\n\n{example('`dice`')}", monkeypatch)

    _, labels = batch()
    labels[:, :3] = 255
    logits = torch.randn(8, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    like_dice = losses.tversky(logits, labels, ignore_index=255, alpha=0.5, beta=0.5)
    torch.testing.assert_close(like_dice, dice(logits, labels, ignore_index=255))

    optimiser = torch.optim.Adam([logits.requires_grad_()], lr=0.5)
    values = []
    for _ in range(20):
        loss = losses.segmentation_loss(
            SegmentationOutput(logits),
            labels,
            ignore_index=255,
            stride=1,
            auxiliary_weight=0.0,
            loss=config.SegmentationLoss(terms={"tversky": 1.0}),
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0] / 2


@pytest.mark.timeout(600)  # this test may be the one that starts the head
def test_the_kind_of_run_completes(scenes, tmp_path, monkeypatch, capsys, ray_driver):
    monkeypatch.setitem(sys.modules, "pipeline.bulk.colours", ModuleType("pipeline.bulk.colours"))
    parts = [
        module(path, example(f"`{path}`"), monkeypatch)
        for path in ("pipeline/bulk/colours/config.py", "pipeline/bulk/colours/run.py", "pipeline/commands/colours.py")
    ]
    for part in parts[:2]:  # Ray's workers cannot import modules that only this test has
        cloudpickle.register_pickle_by_value(part)
    try:
        options = ["--images", f"{scenes}/night/images", "--output", str(tmp_path), "--sharding.max-images", "20"]
        parts[2].main(options)
        first = capsys.readouterr().out
        parts[2].main(options)
        assert "is complete already" in capsys.readouterr().out
    finally:
        for part in parts[:2]:
            cloudpickle.unregister_pickle_by_value(part)

    (registered,) = eval(f"{{{example('`COMMANDS`')}}}", vars(commands)).values()
    assert (registered.group, registered.is_resumable) == (commands.BULK, True)
    run = the_run(str(tmp_path))
    rows = rows_of(run).to_pylist()
    assert [row["image_id"] for row in rows] == sorted(path.name for path in Path(scenes, "night/images").iterdir())
    assert sum(row["status"] == "error" for row in rows) == 5
    assert "45 images, 5 errors" in first
    good = [row for row in rows if row["status"] == "ok"]
    means = [
        decode_image(Path(scenes, "night/images", row["image_id"]).read_bytes()).pixels.mean(axis=(0, 1))
        for row in good
    ]
    found = [[row[name] for name in ("red", "green", "blue")] for row in good]
    np.testing.assert_allclose(found, means, atol=1e-4)  # float32 of 0..255
    (table,) = read_manifest(run)["tables"]
    report = read_file(run, table).to_pylist()[0]
    np.testing.assert_allclose(list(report.values()), np.mean(means, axis=0), atol=1e-4)
