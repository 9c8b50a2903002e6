"""Every recipe is a complete configuration of its network."""

from pathlib import Path

import pytest
import torch

from pipeline import cli
from pipeline.models import configure, score_layers
from pipeline.training.classification.config import TrainClassifierConfig
from pipeline.training.config import TrainerConfig
from pipeline.training.detection.config import TrainDetectorConfig
from pipeline.training.optimisation import freeze_parameters, learning_rate, parameter_groups
from pipeline.training.segmentation.config import TrainConfig
from tests.support.jobs import REPO

RECIPES = sorted((REPO / "recipes").glob("**/*.yaml"))
CLASSIFIER_DATA = ["--train.images=i", "--val.images=i", "--output=o"]
SEGMENTATION_DATA = [*CLASSIFIER_DATA, "--train.labels=l", "--val.labels=l", "--classes=c.yaml"]
DETECTOR_DATA = [*CLASSIFIER_DATA, "--train.boxes=b", "--val.boxes=b"]


def read(recipe: Path, *arguments: str) -> TrainerConfig:
    if recipe.parent.name == "detectors":
        return cli.parse(TrainDetectorConfig, ["--config", str(recipe), *DETECTOR_DATA, *arguments], description="")
    if recipe.parent.name == "classifiers":
        return cli.parse(TrainClassifierConfig, ["--config", str(recipe), *CLASSIFIER_DATA, *arguments], description="")
    return cli.parse(TrainConfig, ["--config", str(recipe), *SEGMENTATION_DATA, *arguments], description="")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_complete(recipe: Path) -> None:
    """It parses, its header names source, score and data, and every multiplier applies to its network."""
    header = [line for line in recipe.read_text().splitlines() if line.startswith("#")]
    assert len(header) >= 3
    assert any(line.startswith(("# Published:", "# Measured:")) for line in header)
    assert any(line.startswith("# Data:") for line in header)
    config = read(recipe)
    architecture = configure(config.model, config.model_options)
    assert config.batch_size >= architecture.min_training_batch
    with torch.device("meta"):
        network = architecture.build(21)
    assert freeze_parameters(network, config.freeze) >= 0
    assert parameter_groups(network, config.optimiser, score_layers(architecture, 21))
    steps = config.epochs * config.steps_per_epoch(1000)
    first, last = (
        learning_rate(config.schedule, lr=config.optimiser.lr, step=step, steps=steps) for step in (0, steps - 1)
    )
    assert first > 0
    assert last <= max(first, config.optimiser.lr)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("fcn32s", 100_000),
        ("fcn8s", 100_000),
        ("deeplab_v1", 6_000),
        ("deeplab_v2_resnet101", 20_000),
        ("deeplab_v3", 30_000),
        ("deconvnet_1", 20_000),
        ("deconvnet_2", 40_000),
        ("segnet", 40_000),
        ("classifiers/resnet50", 600_000),
        ("classifiers/wrn_28_10", 78_200),
        ("classifiers/resnet110", 64_124),
        ("detectors/rcnn", 70_000),
        ("detectors/sppnet", 300_000),
        ("detectors/fast_rcnn", 40_000),
    ],
)
def test_a_recipe_has_the_number_of_steps_in_the_paper(name: str, steps: int) -> None:
    config = read(REPO / "recipes" / f"{name}.yaml")
    assert config.epochs * config.steps_per_epoch(1) == steps


def test_the_command_line_overrides_a_recipe() -> None:
    flags = ["--epochs", "3", "--optimiser.lr", "0.02", "--optimiser.lr-of", "head=5"]
    config = read(REPO / "recipes" / "pspnet.yaml", *flags)
    assert isinstance(config, TrainConfig)
    assert (config.epochs, config.optimiser.lr, config.optimiser.lr_of) == (3, 0.02, {"head": 5.0})
    assert config.optimiser.weight_decay == 1e-4
    assert config.augmentation.blur == 0.5


@pytest.mark.parametrize(
    ("name", "shares"), [("yolo", (75, 105)), ("yolo_fast", (75, 105)), ("faster_rcnn", (16, 22)), ("ssd", (80, 110))]
)
def test_the_learning_rate_of_a_detector_falls_after_the_epochs_in_the_paper(
    name: str, shares: tuple[int, int]
) -> None:
    config = read(REPO / "recipes" / "detectors" / f"{name}.yaml")
    steps = 1000

    def rate(epoch: int) -> float:
        total = config.epochs * steps
        return learning_rate(config.schedule, lr=1.0, step=epoch * steps, steps=total)

    for drops, epoch in enumerate(shares):
        assert rate(epoch - 1) == pytest.approx(0.1**drops)
        assert rate(epoch) == pytest.approx(0.1 ** (drops + 1))
