"""Groups of parameters, frozen layers, and learning rates over a run."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
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


@pytest.mark.parametrize("options", [{"kind": "step"}, {"kind": "exponential"}, {"kind": "step", "at": (0.5, 1.5)}])
def test_incomplete_schedules_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="schedule"):
        Schedule(**options)


def test_schedules_agree_with_those_of_torch() -> None:
    schedulers = torch.optim.lr_scheduler
    pairs: list[tuple[Schedule, Callable[[torch.optim.Optimizer], Any]]] = [
        (Schedule(kind="poly", power=0.9), lambda optimiser: schedulers.PolynomialLR(optimiser, 10, 0.9)),
        (Schedule(kind="cosine"), lambda optimiser: schedulers.CosineAnnealingLR(optimiser, 10)),
    ]
    for ours, build in pairs:
        optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
        theirs = build(optimiser)
        expected = []
        for _ in range(10):
            expected.append(theirs.get_last_lr()[0])
            optimiser.step()
            theirs.step()
        assert rates(ours) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["deeplabv1_largefov", "deeplabv2_resnet101", "pspnet_resnet50", "unet", "fcn8s"])
def test_every_parameter_has_roles(name: str) -> None:
    config = configure(name, {"width": 0.125})
    network = config.build(5)
    all_roles = parameter_roles(network, score_layers(config, 5))
    assert set(all_roles) == {parameter for parameter, _ in network.named_parameters()}
    assert all(len(roles & {"backbone", "head"}) == 1 for roles in all_roles.values())
    norms = {n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {p.rpartition(".")[0] for p, roles in all_roles.items() if "norm" in roles} == norms


def test_score_layers_are_those_that_depend_on_the_number_of_classes() -> None:
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
    settings_of = {}
    for group in parameter_groups(network, settings, score_layers(config, 5)):
        for parameter in group["params"]:
            settings_of[id(parameter)] = (group["lr"], group["weight_decay"])
    assert len(settings_of) == len(list(network.parameters()))

    expected = {
        "backbone.conv1.weight": (0.1, 0.01),
        "backbone.layer1.0.conv1.weight": (0.05, 0.01),
        "backbone.bn1.weight": (0.1, 0.0),
        "backbone.bn1.bias": (0.1, 0.0),  # the role of a norm's bias is norm, not bias
        "classifier.4.weight": (3.0, 0.01),
        "classifier.4.bias": (6.0, 0.0),
        "classifier.1.weight": (1.0, 0.01),
    }
    for name, lr_and_decay in expected.items():
        assert settings_of[id(network.get_parameter(name))] == pytest.approx(lr_and_decay), name


@pytest.mark.parametrize("option", ["lr_of", "decay_of"])
def test_multipliers_take_whole_parts_of_names(option: str) -> None:
    network = configure("deeplabv3_resnet18", {"width": 0.125}).build(5)
    flag = "--optimiser." + option.replace("_", "-")
    for part in ("backbone.lay", "classifier.40", "nonsense"):
        with pytest.raises(UserError, match=rf"{flag} {part}: .* there are backbone\.bn1, backbone\.conv1"):
            parameter_groups(network, Optimiser(**{option: {part: 2}}), set())


def test_frozen_parameters_do_not_learn_and_have_no_group() -> None:
    network = configure("deeplabv3_resnet18", {"width": 0.125}).build(5)
    frozen = freeze_parameters(network, ("backbone.layer1", "backbone.conv1"))
    assert frozen == sum(p.numel() for n, p in network.named_parameters() if not p.requires_grad)
    optimiser = build_optimiser(network, Optimiser(), set())
    optimised = sum(p.numel() for group in optimiser.param_groups for p in group["params"])
    assert optimised == sum(p.numel() for p in network.parameters()) - frozen


Build = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01)),
    ],
)
def test_optimisers_are_those_of_torch(kind: str, reference: Build) -> None:
    """After some steps the weights are bit-equal to those from torch's optimiser."""

    def trained(build: Callable[[nn.Module], torch.optim.Optimizer]) -> torch.Tensor:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        optimiser = build(network)
        for _ in range(5):
            network(torch.ones(2, 3)).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()
        return torch.cat([p.flatten() for p in network.parameters()])

    settings = Optimiser.model_validate({"kind": kind, "lr": 0.1, "weight_decay": 0.01})
    ours = trained(lambda network: build_optimiser(network, settings, set()))
    assert torch.equal(ours, trained(lambda network: reference(network.parameters())))


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"--optimiser.nesterov needs an --optimiser.momentum above 0"):
        Optimiser(nesterov=True, momentum=0)
