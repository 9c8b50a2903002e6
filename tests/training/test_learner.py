"""The training step: the weights depend neither on how a batch is divided nor on where a run is resumed.

Tests compare in float64, where sums in another order differ by about 1e-16, so that no instruction set is close to a
tolerance.
"""

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.data.classes import load_classes
from pipeline.data.datasets import pair
from pipeline.metrics.segmentation import confusion
from pipeline.models import configure
from pipeline.models.cam_classifier import ClassifierOutput
from pipeline.models.upsampling import upsample
from pipeline.predict.device import normalise
from pipeline.training import batch_norm
from pipeline.training.classification.config import ClassifierLoss
from pipeline.training.classification.objective import ClassifierObjective
from pipeline.training.learner import Learner
from pipeline.training.segmentation.config import TrainConfig
from pipeline.training.segmentation.crops import DrawCrops, sample_table
from pipeline.training.segmentation.task import SegmentationObjective

IGNORE = 255
CLASSES = 4
CPU = torch.device("cpu")


def configuration(**changes: Any) -> TrainConfig:
    split = {"images": "/images", "labels": "/labels"}
    options = {
        "model": "deeplabv3_resnet18",
        "model_options": {"width": 0.25, "auxiliary_head": True},
        "optimiser": {"lr": 0.05, "weight_decay": 1e-3},
        "train": split,
        "val": split,
        "classes": "/classes.yaml",
        "output": "/out",
    }
    return TrainConfig.model_validate(options | changes)


def build(
    config: TrainConfig, *, num_classes: int = CLASSES, steps: int = 4, double: bool = True, dropout: bool = False
) -> Learner:
    """Return a learner with fixed initial weights, in float64 if `double`."""
    torch.manual_seed(0)
    network: Any = configure(config.model, config.model_options).build(num_classes)
    for module in network.modules():
        if isinstance(module, nn.Dropout) and not dropout:
            module.p = 0.0
    if double:
        network.double().register_forward_pre_hook(lambda _, images: (images[0].double(),))
    objective = SegmentationObjective(config, ignore_index=IGNORE, stride=network.output_stride)
    return Learner(network, config=config, objective=objective, num_classes=num_classes, steps=steps, device=CPU)


def batches(steps: int = 4, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Return pixels and labels; the first images of a batch have more ignored pixels than the others."""
    generator = torch.Generator().manual_seed(1)
    result = []
    for _ in range(steps):
        labels = torch.randint(0, CLASSES, (size, 4, 4), generator=generator)
        labels = labels.repeat_interleave(12, 1).repeat_interleave(12, 2)
        labels[: size // 2, :30] = IGNORE
        pixels = torch.randint(0, 256, (size, 48, 48, 3), generator=generator, dtype=torch.uint8)
        result.append((pixels, labels))
    return result


def learn(learner: Learner, data: list[tuple[Tensor, Tensor]], *, first: int = 0) -> list[float]:
    """Learn from batches, beginning with step `first`, and return the losses."""
    losses = []
    for step, (pixels, labels) in enumerate(data, start=first):
        torch.manual_seed(step)  # for dropout
        losses.append(float(learner.step(pixels, labels, step=step)))
    return losses


def state(network: nn.Module) -> Tensor:
    """Return all weights and statistics of a network as one vector."""
    return torch.cat([value.flatten().double() for value in network.state_dict().values()])


@contextmanager
def process_group(store: Path, *, rank: int, world: int) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


@ray.remote
def learn_in_parallel(rank: int, store: Path, config: TrainConfig) -> tuple[list[float], Tensor]:
    """Learn as one of two workers, which take 3 and 5 images of each batch."""
    torch.set_num_threads(1)
    part = (slice(0, 3), slice(3, 8))[rank]
    with process_group(store, rank=rank, world=2):
        learner = build(config)
        return learn(learner, [(pixels[part], labels[part]) for pixels, labels in batches()]), state(learner.network)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "loss": {"terms": {"cross_entropy": 1.0, "dice": 0.5, "bootstrapped": 0.5}, "worst_pixels": 100},
            "optimiser": {"lr": 0.01, "kind": "adam", "clip": 0.5},
        },
    ],
)
def test_two_workers_learn_the_same_as_one(changes: dict[str, Any], tmp_path: Path, ray_driver: None) -> None:
    """With synchronised statistics, losses and weights are equal even though the workers' parts differ in size."""
    config = configuration(batch_norm={"mode": "synchronised"}, **changes)
    alone = build(config)
    losses = learn(alone, batches())
    (losses_0, state_0), (losses_1, state_1) = ray.get(
        [learn_in_parallel.remote(rank, tmp_path / "store", config) for rank in range(2)]
    )
    assert [a + b for a, b in zip(losses_0, losses_1, strict=True)] == pytest.approx(losses, rel=1e-9)
    assert torch.equal(state_0, state_1)  # both apply the same sums of two addends, which have no order
    torch.testing.assert_close(state_0, state(alone.network))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_synchronised_batch_norm_of_one_worker_is_that_of_torch(momentum: float | None, tmp_path: Path) -> None:
    """Outputs, gradients and statistics agree; without momentum the statistics are the mean over batches."""
    ours, theirs = (nn.BatchNorm2d(5, momentum=momentum, dtype=torch.float64) for _ in range(2))
    batch_norm.synchronise(nn.Sequential(ours), CPU)
    assert type(ours) is batch_norm.SynchronisedBatchNorm2d
    generator = torch.Generator().manual_seed(0)
    with process_group(tmp_path / "store", rank=0, world=1):
        for _ in range(2):
            x = torch.randn(3, 5, 4, 4, generator=generator, dtype=torch.float64)
            inputs = [x.clone().requires_grad_() for _ in range(2)]
            outputs = [norm(x) for norm, x in zip((ours, theirs), inputs, strict=True)]
            torch.testing.assert_close(*outputs)
            for output in outputs:
                output.square().mul(x).sum().backward()
            torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(state(ours), state(theirs))
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_a_step_without_any_region_leaves_the_statistics_alone(tmp_path: Path) -> None:
    ours = nn.BatchNorm2d(5)
    batch_norm.synchronise(nn.Sequential(ours), CPU)
    with process_group(tmp_path / "store", rank=0, world=1):
        ours(torch.randn(3, 5, 4, 4))
        before = {name: value.clone() for name, value in ours.state_dict().items()}
        x = torch.zeros(0, 5, 4, 4, requires_grad=True)
        output = ours(x)
        assert output.shape == x.shape
        output.sum().backward()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert ours.weight.grad is not None
    assert torch.isfinite(ours.weight.grad).all()


def test_accumulated_parts_have_the_gradient_of_the_batch() -> None:
    """Batch normalisation is frozen, because its statistics would be those of each part."""
    frozen = {"batch_norm": {"mode": "frozen"}}
    parts = build(configuration(optimiser={"lr": 0.05, "accumulate": 3}, **frozen))
    whole = build(configuration(optimiser={"lr": 0.05}, **frozen))
    assert learn(parts, batches(2)) == pytest.approx(learn(whole, batches(2)), rel=1e-9)
    torch.testing.assert_close(state(parts.network), state(whole.network))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimiser": {"kind": "adamw", "lr": 1e-3, "ema": 0.9}},
        {"optimiser": {"lr": 0.05, "average_from": 0.25}},
        {"dtype": "bfloat16"},
    ],
)
def test_a_resumed_learner_ends_with_the_same_bits(changes: dict[str, Any]) -> None:
    """The same operations in the same order give the same bits in any precision; dropout follows the step's seed."""
    data = batches()
    build_float = functools.partial(build, configuration(**changes), double=False, dropout=True)
    uninterrupted = build_float()
    learn(uninterrupted, data)
    interrupted = build_float()
    learn(interrupted, data[:2])
    checkpoint = copy.deepcopy(interrupted.state_dict())
    resumed = build_float()
    resumed.load_state_dict(checkpoint)
    learn(resumed, data[2:], first=2)
    assert torch.equal(state(resumed.network), state(uninterrupted.network))
    assert torch.equal(state(resumed.evaluated), state(uninterrupted.evaluated))


def test_the_moving_average_is_evaluated() -> None:
    decay = 0.2  # from the third step on
    learner = build(configuration(optimiser={"lr": 0.05, "ema": decay}))
    name = "classifier.4.weight"
    expected = None
    for step, (pixels, labels) in enumerate(batches()):
        learner.step(pixels, labels, step=step)
        weight = learner.network.get_parameter(name).detach().clone()
        rate = min(decay, (1 + step) / (10 + step))
        expected = weight if expected is None else rate * expected + (1 - rate) * weight
    torch.testing.assert_close(learner.evaluated.get_parameter(name).detach(), expected)
    assert not torch.equal(learner.network.get_parameter(name), learner.evaluated.get_parameter(name))


def test_the_mean_of_the_last_weights_is_evaluated() -> None:
    """Of eight steps, averaging begins after six: the mean has two terms, and is a copy of the weights before."""
    learner = build(configuration(optimiser={"lr": 0.05, "average_from": 0.75}), steps=8)
    name = "classifier.4.weight"
    weights = []
    for step, (pixels, labels) in enumerate(batches(8)):
        learner.step(pixels, labels, step=step)
        weights.append(learner.network.get_parameter(name).detach().clone())
        expected = weights[-1] if step < 6 else torch.stack(weights[6:]).mean(dim=0)
        torch.testing.assert_close(learner.evaluated.get_parameter(name).detach(), expected)
    counters = {n: b for n, b in learner.evaluated.named_buffers() if n.endswith("num_batches_tracked")}
    assert counters
    assert all(torch.equal(b, learner.network.get_buffer(n)) for n, b in counters.items())


def test_frozen_batch_norm_keeps_weights_and_statistics() -> None:
    learner = build(configuration(batch_norm={"mode": "frozen"}))
    norms = batch_norm.batch_norms(learner.network)
    before = torch.cat([state(norm) for norm in norms])
    learn(learner, batches(1))
    assert torch.equal(before, torch.cat([state(norm) for norm in norms]))


def test_a_frozen_backbone_keeps_its_bits_and_the_head_learns() -> None:
    learner = build(configuration(freeze=("backbone",)))
    before = copy.deepcopy(learner.network.state_dict())
    learn(learner, batches(1))
    after = learner.network.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert "backbone" not in changed
    assert "classifier" in changed


def test_recomputed_statistics_are_the_mean_over_the_batches() -> None:
    learner = build(configuration(batch_norm={"recompute": 4}))
    learn(learner, batches(1))
    first: Any = learner.network.get_submodule("backbone.bn1")
    means = []
    handle = first.register_forward_pre_hook(lambda _, x: means.append(x[0].mean(dim=(0, 2, 3))))
    learner.recompute_batch_norm(iter(batches()))
    handle.remove()
    torch.testing.assert_close(first.running_mean, torch.stack(means).mean(dim=0))
    assert first.momentum == 0.1


def test_clipping_bounds_a_step() -> None:
    lr, bound = 0.05, 0.01
    learner = build(configuration(optimiser={"lr": lr, "clip": bound, "momentum": 0, "weight_decay": 0}))
    before = {name: p.detach().clone() for name, p in learner.network.named_parameters()}
    learn(learner, batches(1))
    step = torch.cat([(p.detach() - before[name]).flatten() for name, p in learner.network.named_parameters()])
    # torch adds 1e-6 to the gradient's norm, which is about 5 here.
    assert float(step.norm()) == pytest.approx(lr * bound, rel=1e-5)


def test_float16_scales_the_loss() -> None:
    learner = build(configuration(dtype="float16"), steps=6, double=False)
    losses = learn(learner, batches(1) * 6)
    assert learner.scaler.get_scale() > 1
    assert losses[-1] < losses[0]


def test_a_compiled_network_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend `eager` executes the traced graph as it is, so only the use of `torch.compile` is tested."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    eager, compiled = build(configuration()), build(configuration(compile=True))
    assert compiled.model is not compiled.network
    assert learn(compiled, batches(2)) == pytest.approx(learn(eager, batches(2)), rel=1e-9)
    assert list(compiled.state_dict()["network"]) == list(eager.state_dict()["network"])


def test_a_learner_overfits_eight_crops(scenes: str) -> None:
    """Crops, network, loss and optimiser work together: the network learns its training crops by heart."""
    classes = load_classes(f"{scenes}/classes.yaml")
    config = configuration(
        model_options={"width": 0.25, "output_stride": 8},
        augmentation={"crop": (96, 96), "scale": (0.8, 0.8), "flip": 0},
        optimiser={"kind": "adam", "lr": 3e-3, "weight_decay": 0},
        schedule={"kind": "constant"},
    )
    draw = DrawCrops(augmentation=config.augmentation, classes=classes, preprocessing=config.preprocessing, seed=0)
    samples = pair(f"{scenes}/train/images", f"{scenes}/train/labels").samples[:8]
    crops = draw(sample_table(samples), 0, range(8))
    pixels, labels = torch.from_numpy(crops.pixels), torch.from_numpy(crops.labels).long()
    learner = build(config, num_classes=len(classes), double=False)
    miou = 0.0
    # The course depends on the processor's rounding; about 60 steps suffice.
    for step in range(300):
        learner.step(pixels, labels, step=step)
        if step % 20 == 19:
            learner.network.eval()
            with torch.no_grad():
                logits = learner.network(normalise(pixels, config.preprocessing)).logits
            predicted = upsample(logits, (96, 96), stride=8).argmax(dim=1)
            counts = confusion(labels.numpy(), predicted.numpy(), num_classes=len(classes), ignore_index=IGNORE)
            miou = counts.scores.miou
            if miou > 0.8:
                break
    assert miou > 0.8


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_loss_of_a_classifier_is_that_of_torch_and_the_sum_of_its_parts(multi_label: bool) -> None:
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
    totals = objective.totals(labels)
    torch.testing.assert_close(objective.totals(labels[:2]) + objective.totals(labels[2:]), totals)
    first, second = (
        objective(ClassifierOutput(logits[part], logits), labels[part], totals=totals, progress=0.0)
        for part in (slice(0, 2), slice(2, 6))
    )
    # The objective computes in float32: 24 terms of about 1 in another order differ by at most some 1e-6.
    torch.testing.assert_close(first + second, expected, rtol=1e-5, atol=1e-5)
