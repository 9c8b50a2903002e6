"""Groups of parameters, frozen layers, and learning rates over a run."""

import math

import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.models import ARCHITECTURES, configure, score_layers
from pipeline.training.config import Optimiser, Schedule
from pipeline.training.optimisation import (
    build_optimiser,
    freeze_parameters,
    learning_rate,
    parameter_groups,
    parameter_roles,
)


def rates(schedule: Schedule, steps: int = 10) -> list[float]:
    return [learning_rate(schedule, lr=2.0, step=step, steps=steps) for step in range(steps)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(kind="constant"), [2.0] * 10),
        (Schedule(kind="poly", power=2), [2 * (1 - s / 10) ** 2 for s in range(10)]),
        (Schedule(kind="cosine"), [1 + math.cos(math.pi * s / 10) for s in range(10)]),
        (Schedule(kind="step", every=4, gamma=0.1), [2, 2, 2, 2, 0.2, 0.2, 0.2, 0.2, 0.02, 0.02]),
        (Schedule(kind="step", at=(0.3, 0.6), gamma=0.5), [2, 2, 2, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]),
        (Schedule(kind="exponential", every=5, gamma=0.5), [2 * 0.5 ** (s / 5) for s in range(10)]),
        (Schedule(kind="step", every=4, gamma=0.1, floor=0.1), [2, 2, 2, 2, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1]),
        (Schedule(kind="constant", warmup=3), [0.5, 1.0, 1.5, 2, 2, 2, 2, 2, 2, 2]),
    ],
)
def test_schedules(schedule: Schedule, expected: list[float]) -> None:
    assert rates(schedule) == pytest.approx(expected)


@pytest.mark.parametrize("told", [{"kind": "step"}, {"kind": "exponential"}, {"kind": "step", "at": (0.5, 1.5)}])
def test_schedules_that_lack_something_are_refused(told: dict) -> None:
    with pytest.raises(ValueError, match="schedule"):
        Schedule(**told)


def test_every_schedule_of_torch_that_we_have_agrees() -> None:
    """torch's poly, cosine and exponential, stepped beside ours."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    for ours, theirs in (
        (Schedule(kind="poly", power=0.9), torch.optim.lr_scheduler.PolynomialLR(optimiser, 10, 0.9)),
        (Schedule(kind="cosine"), torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10)),
    ):
        found = []
        for _ in range(10):
            found.append(theirs.get_last_lr()[0])
            optimiser.step()
            theirs.step()
        assert rates(ours) == pytest.approx(found)
        optimiser.param_groups[0]["lr"] = 2.0


@pytest.mark.parametrize("name", ["deeplabv1_largefov", "deeplabv2_resnet101", "pspnet_resnet50", "unet", "fcn8s"])
def test_roles_cover_every_parameter(name: str) -> None:
    config = configure(name, {"width": 0.125})
    network = config.build(5)
    of = parameter_roles(network, score_layers(config, 5))
    assert set(of) == {parameter for parameter, _ in network.named_parameters()}
    assert all(len(own & {"backbone", "head"}) == 1 for own in of.values())
    norms = {n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {p.rpartition(".")[0] for p, own in of.items() if "norm" in own} == norms


def test_the_layers_of_scores_are_found_by_what_depends_on_the_classes() -> None:
    def layers(name: str) -> set[str]:
        return {parameter.rpartition(".")[0] for parameter in score_layers(ARCHITECTURES[name], 7)}

    assert layers("deeplabv1_largefov") == {"score"}
    assert layers("deeplabv3_resnet50") == {"classifier.4"}
    assert len(layers("deeplabv2_resnet101")) == 4


def test_multipliers_of_roles_and_names_multiply() -> None:
    config = configure("deeplabv3_resnet18", {"width": 0.125})
    network = config.build(5)
    settings = Optimiser(
        lr=0.1,
        weight_decay=0.01,
        lr_of={"head": 10, "bias": 2, "backbone.layer1": 0.5, "score": 3},
        decay_of={"bias": 0, "norm": 0},
    )
    found = {}
    for group in parameter_groups(network, settings, score_layers(config, 5)):
        for parameter in group["params"]:
            found[id(parameter)] = (group["lr"], group["weight_decay"])
    assert len(found) == len(list(network.parameters()))

    def of(name: str) -> tuple[float, float]:
        return pytest.approx(found[id(network.get_parameter(name))])

    assert of("backbone.conv1.weight") == (0.1, 0.01)
    assert of("backbone.layer1.0.conv1.weight") == (0.05, 0.01)
    assert of("backbone.bn1.weight") == (0.1, 0.0)
    assert of("backbone.bn1.bias") == (0.1, 0.0)  # a norm's, not a bias
    assert of("classifier.4.weight") == (3.0, 0.01)
    assert of("classifier.4.bias") == (6.0, 0.0)
    assert of("classifier.1.weight") == (1.0, 0.01)


def test_a_prefix_is_a_whole_part_of_the_name() -> None:
    network = configure("deeplabv3_resnet18", {"width": 0.125}).build(5)
    for bad in ("backbone.lay", "classifier.40", "nonsense"):
        with pytest.raises(UserError, match=r"there are backbone\.bn1, backbone\.conv1"):
            parameter_groups(network, Optimiser(lr_of={bad: 2}), set())


def test_frozen_parameters_do_not_learn_and_have_no_group() -> None:
    network = configure("deeplabv3_resnet18", {"width": 0.125}).build(5)
    frozen = freeze_parameters(network, ("backbone.layer1", "backbone.conv1"))
    assert frozen == sum(p.numel() for n, p in network.named_parameters() if not p.requires_grad)
    optimiser = build_optimiser(network, Optimiser(), set())
    held = sum(p.numel() for group in optimiser.param_groups for p in group["params"])
    assert held == sum(p.numel() for p in network.parameters()) - frozen


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_optimisers_are_torchs(kind: str) -> None:
    """The weights after some steps are those of torch's optimiser on plain parameters."""
    expected = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01),
    }[kind]
    weights = []
    for build in (
        lambda n: build_optimiser(n, Optimiser(kind=kind, lr=0.1, weight_decay=0.01), set()),
        lambda n: expected(n.parameters()),
    ):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        optimiser = build(network)
        for _ in range(5):
            network(torch.ones(2, 3)).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()
        weights.append(torch.cat([p.flatten() for p in network.parameters()]))
    assert torch.equal(*weights)
