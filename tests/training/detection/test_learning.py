"""A training step of a detector: the weights depend neither on the division of a batch nor on the number of workers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.models import configure
from pipeline.models.detection.detector import DetectionNetwork
from pipeline.training import batch_norm
from pipeline.training.detection.config import TrainDetectorConfig
from pipeline.training.detection.examples import BoxLabels
from pipeline.training.detection.objective import DetectionObjective
from pipeline.training.learner import Learner
from tests.support.boxes import random_boxes

CLASSES = 3
CPU = torch.device("cpu")
MODELS: dict[str, dict[str, Any]] = {
    "rcnn_alexnet": {"width": 0.05, "crop": 96, "regions": 4},
    "sppnet_alexnet": {"width": 0.05, "scales": [96], "regions": 8},
    "fast_rcnn_alexnet": {"width": 0.05, "short_side": 96, "regions": 8},
    "yolo_fast": {"width": 0.05, "grid": 2, "batch_norm": True},
}


def configuration(model: str, **changes: Any) -> TrainDetectorConfig:
    split = {"images": "/images", "boxes": "/boxes"}
    options = {"model": model, "model_options": MODELS[model], "train": split, "val": split, "output": "/out"}
    return TrainDetectorConfig.model_validate(options | {"optimiser": {"lr": 0.01}} | changes)


def build(config: TrainDetectorConfig) -> Learner:
    """Return a learner with fixed initial weights in float64, without dropout."""
    torch.manual_seed(0)
    network = configure(config.model, config.model_options).build(CLASSES)
    assert isinstance(network, DetectionNetwork)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    network.double()
    losses = network.losses

    def in_double(images: list[Tensor], *others: Any, **options: Any) -> dict[str, Tensor]:
        return losses([image.double() for image in images], *others, **options)

    network.losses = in_double  # type: ignore[method-assign, assignment]
    return Learner(network, config=config, objective=DetectionObjective(), num_classes=CLASSES, steps=3, device=CPU)


def batches() -> list[tuple[list[Tensor], list[BoxLabels]]]:
    """Return three batches of five images; the second image has no box, and the third no proposals."""
    rng = np.random.default_rng(0)
    result = []
    for step in range(3):
        pixels, labels = [], []
        for i in range(5):
            n = 0 if i == 1 else 3
            boxes = torch.from_numpy(random_boxes(rng, n, side=90, least=8))
            near = boxes.repeat(4, 1) + torch.from_numpy(rng.integers(-6, 7, (4 * n, 4)))
            other = torch.from_numpy(random_boxes(rng, 20, side=90, least=8))
            proposals = torch.cat([near, other])[: 0 if i == 2 else None].float()
            classes = torch.from_numpy(rng.integers(0, CLASSES, n))
            pixels.append(torch.from_numpy(rng.integers(0, 256, (100, 110, 3), dtype=np.uint8)))
            labels.append(BoxLabels(boxes.float(), classes, proposals, torch.tensor([0, step, i])))
        result.append((pixels, labels))
    return result


def learn(learner: Learner, part: slice = slice(None)) -> tuple[list[float], Tensor]:
    """Learn from a part of each batch; return the losses, and all weights as one vector."""
    losses = [float(learner.step(pixels[part], labels[part], step=i)) for i, (pixels, labels) in enumerate(batches())]
    return losses, torch.cat([value.flatten().double() for value in learner.network.state_dict().values()])


@ray.remote
def learn_in_parallel(rank: int, store: Path, config: TrainDetectorConfig) -> tuple[list[float], Tensor]:
    """Learn as one of two workers, which take 2 and 3 images of each batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        return learn(build(config), (slice(0, 2), slice(2, 5))[rank])
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("model", ["sppnet_alexnet", "fast_rcnn_alexnet", "yolo_fast"])
def test_two_workers_learn_the_same_as_one(model: str, tmp_path: Path, ray_driver: None) -> None:
    config = configuration(model, batch_norm={"mode": "synchronised"})
    losses, state = learn(build(config))
    (losses_0, state_0), (losses_1, state_1) = ray.get(
        [learn_in_parallel.remote(rank, tmp_path / "store", config) for rank in range(2)]
    )
    assert losses[0] > 0
    assert [a + b for a, b in zip(losses_0, losses_1, strict=True)] == pytest.approx(losses, rel=1e-6)
    assert torch.equal(state_0, state_1)
    torch.testing.assert_close(state_0, state, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("model", ["rcnn_alexnet", "fast_rcnn_alexnet"])
def test_an_accumulated_batch_is_learnt_as_a_whole(model: str) -> None:
    losses, state = learn(build(configuration(model)))
    parts = learn(build(configuration(model, optimiser={"lr": 0.01, "accumulate": 3})))
    assert parts[0] == pytest.approx(losses, rel=1e-6)
    torch.testing.assert_close(parts[1], state, rtol=1e-6, atol=1e-9)


def test_the_statistics_of_batch_normalisation_can_be_recomputed() -> None:
    """They become the mean over the batches, computed by the passes of training."""
    learner = build(configuration("yolo_fast"))
    first = batch_norm.batch_norms(learner.network)[0]
    means = []
    handle = first.register_forward_pre_hook(lambda _, x: means.append(x[0].mean(dim=(0, 2, 3))))
    learner.recompute_batch_norm(iter(batches()))
    handle.remove()
    assert first.running_mean is not None
    torch.testing.assert_close(first.running_mean, torch.stack(means).mean(dim=0))
    assert len(means) == 3
