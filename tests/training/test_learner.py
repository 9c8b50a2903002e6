"""One step of learning: however a batch is divided, and from wherever it goes on, the weights are the same."""

import copy
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.models import configure
from pipeline.models.cam_classifier import ClassifierOutput
from pipeline.training import batch_norm
from pipeline.training.classification.config import ClassifierLoss
from pipeline.training.classification.task import ClassifierObjective
from pipeline.training.learner import Learner
from pipeline.training.segmentation.config import Split, TrainConfig
from pipeline.training.segmentation.task import SegmentationObjective

IGNORE = 255
CLASSES = 4
TOLERANCE = 1e-9  # of float64: sums in another order


def config(**changes: Any) -> TrainConfig:
    split = Split(images="/images", labels="/labels")
    told = {
        "model": "deeplabv3_resnet18",
        "model_options": {"width": 0.125, "auxiliary_head": True},
        "optimiser": {"lr": 0.05, "weight_decay": 1e-3},
    }
    return TrainConfig(train=split, val=split, classes="/classes.yaml", output="/out", **told | changes)


def build(settings: TrainConfig, *, steps: int = 4, double: bool = False, dropout: bool = False) -> Learner:
    torch.manual_seed(0)
    network = configure(settings.model, settings.model_options).build(CLASSES)
    for module in network.modules():
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0  # workers draw their own
    if double:
        network.double().register_forward_pre_hook(lambda _, images: (images[0].double(),))
    objective = SegmentationObjective(settings, ignore_index=IGNORE, stride=network.output_stride)
    told = {"num_classes": CLASSES, "steps": steps, "device": torch.device("cpu")}
    return Learner(network, config=settings, objective=objective, **told)


def batches(steps: int = 4, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Images and labels, of which the first have more ignored pixels than the others."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(steps):
        labels = torch.randint(0, CLASSES, (size, 4, 4), generator=generator)
        labels = labels.repeat_interleave(12, 1).repeat_interleave(12, 2)
        labels[: size // 2, :30] = IGNORE
        pixels = torch.randint(0, 256, (size, 48, 48, 3), generator=generator, dtype=torch.uint8)
        found.append((pixels, labels))
    return found


def learn(learner: Learner, data: list[tuple[Tensor, Tensor]], *, first: int = 0) -> list[float]:
    losses = []
    for step, (pixels, labels) in enumerate(data, start=first):
        torch.manual_seed(step)
        losses.append(float(learner.step(pixels, labels, step=step)))
    return losses


def weights(network: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in network.state_dict().values()])


@ray.remote
def learn_in_parallel(rank: int, world: int, store: str, settings: TrainConfig) -> tuple[list[float], Tensor]:
    """A worker of a gloo group; the parts of a batch are of unlike size."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        learner = build(settings, double=True)
        cut = [0, 3, 8]
        mine = [(pixels[cut[rank] : cut[rank + 1]], labels[cut[rank] : cut[rank + 1]]) for pixels, labels in batches()]
        return learn(learner, mine), weights(learner.network)
    finally:
        dist.destroy_process_group()


TERMS = {"cross_entropy": 1.0, "dice": 0.5, "bootstrapped": 0.5}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": {"terms": TERMS, "worst_pixels": 100}, "optimiser": {"lr": 0.01, "kind": "adam", "clip": 0.5}},
    ],
)
def test_two_workers_learn_what_one_does(changes: dict, tmp_path: Path, ray_driver: None) -> None:
    """With synchronised statistics: equal losses and weights, though one has 3 images and the other 5."""
    settings = config(batch_norm={"mode": "synchronised"}, **changes)
    alone = build(settings, double=True)
    losses = learn(alone, batches())
    store = str(tmp_path / "store")
    (first, one), (second, other) = ray.get([learn_in_parallel.remote(r, 2, store, settings) for r in range(2)])
    assert [a + b for a, b in zip(first, second, strict=True)] == pytest.approx(losses, rel=TOLERANCE)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    torch.testing.assert_close(one, weights(alone.network), rtol=1e-7, atol=1e-9)


def test_synchronised_statistics_of_one_worker_are_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.BatchNorm2d(5, dtype=torch.float64) for _ in range(2))
    batch_norm.synchronise(nn.Sequential(ours), torch.device("cpu"))
    assert type(ours) is batch_norm.SynchronisedBatchNorm2d
    x = torch.randn(3, 5, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_accumulated_parts_have_the_gradient_of_the_whole() -> None:
    """With frozen batch norm, whose statistics would be the part's."""
    told = {"batch_norm": {"mode": "frozen"}}
    parts = build(config(optimiser={"lr": 0.05, "accumulate": 3}, **told), double=True)
    whole = build(config(optimiser={"lr": 0.05}, **told), double=True)
    assert learn(parts, batches()) == pytest.approx(learn(whole, batches()), rel=TOLERANCE)
    torch.testing.assert_close(weights(parts.network), weights(whole.network), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimiser": {"kind": "adamw", "lr": 1e-3, "ema": 0.9}},
        {"dtype": "bfloat16"},
    ],
)
def test_a_resumed_learner_ends_with_the_same_bits(changes: dict) -> None:
    settings = config(**changes)
    data = batches()
    straight = build(settings, dropout=True)
    learn(straight, data)
    before = build(settings, dropout=True)
    learn(before, data[:2])
    state = copy.deepcopy(before.state_dict())
    torch.manual_seed(99)
    after = build(settings, dropout=True)
    after.load_state_dict(state)
    learn(after, data[2:], first=2)
    assert torch.equal(weights(after.network), weights(straight.network))
    assert torch.equal(weights(after.evaluated), weights(straight.evaluated))


def test_the_moving_average_is_what_is_evaluated() -> None:
    decay = 0.75
    learner = build(config(optimiser={"lr": 0.05, "ema": decay}))
    name = "classifier.4.weight"
    expected = None
    for step, (pixels, labels) in enumerate(batches()):
        learner.step(pixels, labels, step=step)
        now = learner.network.get_parameter(name).detach().clone()
        expected = now if expected is None else decay * expected + (1 - decay) * now
    torch.testing.assert_close(learner.evaluated.get_parameter(name), expected)
    assert not torch.equal(learner.network.get_parameter(name), expected)
    assert build(config()).evaluated is not None


def test_frozen_batch_norm_keeps_weights_and_statistics() -> None:
    learner = build(config(batch_norm={"mode": "frozen"}))
    of = [module for module in learner.network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = copy.deepcopy([module.state_dict() for module in of])
    learn(learner, batches())
    for old, module in zip(before, of, strict=True):
        assert all(torch.equal(old[name], value) for name, value in module.state_dict().items())


def test_a_frozen_backbone_stays_bit_for_bit_and_the_head_learns() -> None:
    learner = build(config(freeze=("backbone",)))
    before = copy.deepcopy(learner.network.state_dict())
    learn(learner, batches())
    after = learner.network.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert "backbone" not in changed
    assert "classifier" in changed


def test_recomputed_statistics_are_the_mean_over_the_batches() -> None:
    learner = build(config(batch_norm={"recompute": 4}))
    learn(learner, batches())
    first = learner.network.backbone.bn1
    seen = []
    handle = first.register_forward_pre_hook(lambda _, x: seen.append(x[0].mean(dim=(0, 2, 3))))
    learner.recompute_batch_norm(pixels for pixels, _ in batches())
    handle.remove()
    torch.testing.assert_close(first.running_mean, torch.stack(seen).mean(dim=0))
    assert first.momentum == 0.1


def test_clipping_bounds_a_step() -> None:
    lr, bound = 0.05, 0.01
    learner = build(config(optimiser={"lr": lr, "clip": bound, "momentum": 0, "weight_decay": 0}))
    before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
    learn(learner, batches(1))
    moved = torch.cat([(p - before[name]).flatten() for name, p in learner.network.named_parameters()]).norm()
    assert float(moved.detach()) == pytest.approx(lr * bound, rel=1e-2)


def test_float16_scales_its_loss() -> None:
    learner = build(config(dtype="float16"), steps=6)
    losses = learn(learner, batches(1) * 6)
    assert learner.scaler.get_scale() > 1
    assert losses[-1] < losses[0]


def test_a_compiled_network_learns_the_same() -> None:
    eager, compiled = build(config(), steps=2), build(config(compile=True), steps=2)
    compiled_losses = learn(compiled, batches(2))
    assert compiled_losses == pytest.approx(learn(eager, batches(2)), rel=1e-3)
    assert list(compiled.state_dict()["network"]) == list(eager.state_dict()["network"])


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_classifiers_loss_is_torchs_and_its_parts_add_up(multi_label: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, CLASSES, generator=generator)
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    shape = (6, CLASSES) if multi_label else (6,)
    labels = torch.randint(0, 2 if multi_label else CLASSES, shape, generator=generator)
    objective = ClassifierObjective(ClassifierLoss(label_smoothing=0.1), multi_label=multi_label, weights=weights)
    if multi_label:
        expected = nn.BCEWithLogitsLoss(pos_weight=weights)(logits, labels * 0.9 + 0.05)
    else:
        expected = nn.CrossEntropyLoss(weight=weights, label_smoothing=0.1)(logits, labels)
    whole = objective.totals(labels)
    torch.testing.assert_close(objective.totals(labels[:2]) + objective.totals(labels[2:]), whole)
    parts = [
        objective(ClassifierOutput(logits[part], logits), labels[part], totals=whole, progress=0.0)
        for part in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(sum(parts), expected)
