"""Optimisers with groups of parameters, frozen parameters, and learning rates over a run. torch only."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from pipeline.errors import UserError
from pipeline.training.config import Optimiser, Schedule

ROLES = ("backbone", "head", "score", "bias", "norm")


def freeze_parameters(network: nn.Module, prefixes: tuple[str, ...]) -> int:
    """Exclude the parameters below some prefixes from learning, and return how many weights these are.

    Raises:
        UserError: A prefix fits no parameter, or nothing is left to learn.
    """
    names = [name for name, _ in network.named_parameters()]
    for prefix in prefixes:
        if not any(_has_prefix(name, prefix) for name in names):
            raise UserError(f"--freeze {prefix}: no parameter's name begins with it; there are {_modules(names)}")
    count = 0
    for name, parameter in network.named_parameters():
        if any(_has_prefix(name, prefix) for prefix in prefixes):
            parameter.requires_grad_(False)
            count += parameter.numel()
    if not any(p.requires_grad for p in network.parameters()):
        raise UserError(f"--freeze {','.join(prefixes)}: nothing is left to learn")
    return count


def parameter_roles(network: nn.Module, score_parameters: set[str]) -> dict[str, set[str]]:
    """Return the roles of each parameter, by the parameter's name.

    Args:
        network: A network; its backbone is the module named `backbone`.
        score_parameters: Names of the parameters of the layers that give the classes' scores.
    """
    norm_parameters = {
        f"{prefix}.{name}"
        for prefix, module in network.named_modules()
        if isinstance(module, _NormBase | nn.GroupNorm | nn.LayerNorm)
        for name, _ in module.named_parameters()
    }
    all_roles = {}
    for name, _ in network.named_parameters():
        roles = {"backbone"} if "backbone" in name.split(".") else {"head"}
        if name in score_parameters:
            roles.add("score")
        if name in norm_parameters:
            roles.add("norm")
        elif name.endswith("bias"):
            roles.add("bias")
        all_roles[name] = roles
    return all_roles


def parameter_groups(network: nn.Module, settings: Optimiser, score_parameters: set[str]) -> list[dict[str, Any]]:
    """Return the parameters that learn, as groups for an optimiser.

    Args:
        network: The network.
        settings: Options of the optimiser.
        score_parameters: Names of the parameters of the layers that give the classes' scores.

    Returns:
        Groups as `torch.optim` takes them; `lr_scale` is the factor between the run's and the group's learning rate.

    Raises:
        UserError: A multiplier names a part that the network does not have.
    """
    all_roles = parameter_roles(network, score_parameters)
    options = {"--optimiser.lr-of": settings.lr_of, "--optimiser.decay-of": settings.decay_of}
    for flag, multipliers in options.items():
        for part in multipliers:
            if part not in ROLES and not any(_has_prefix(name, part) for name in all_roles):
                raise UserError(
                    f"{flag} {part}: neither a role ({', '.join(ROLES)}) nor the beginning of a parameter's name; "
                    f"there are {_modules(list(all_roles))}"
                )
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            roles = all_roles[name]
            scales = (_multiplier(settings.lr_of, name, roles), _multiplier(settings.decay_of, name, roles))
            groups.setdefault(scales, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.lr * lr_scale,
            "lr_scale": lr_scale,
            "weight_decay": settings.weight_decay * decay_scale,
        }
        for (lr_scale, decay_scale), parameters in groups.items()
    ]


def _multiplier(multipliers: Mapping[str, float], name: str, roles: set[str]) -> float:
    """Return the product of the multipliers that apply to a parameter."""
    return math.prod(factor for part, factor in multipliers.items() if part in roles or _has_prefix(name, part))


def _has_prefix(name: str, prefix: str) -> bool:
    """Tell whether a dotted name begins with whole parts: `a.b.c` begins with `a.b`, `a.bc` does not."""
    return name == prefix or name.startswith(prefix.removesuffix(".") + ".")


def _modules(names: list[str]) -> str:
    """List the modules at the top of the network and its backbone: `backbone.layer1, backbone.layer2, classifier`."""
    tops = {".".join(n.split(".")[:2]) if n.startswith("backbone.") else n.split(".")[0] for n in names}
    return ", ".join(sorted(tops))


def build_optimiser(network: nn.Module, settings: Optimiser, score_parameters: set[str]) -> torch.optim.Optimizer:
    """Return the optimiser of the parameters that learn; see `parameter_groups`."""
    groups = parameter_groups(network, settings, score_parameters)
    match settings.kind:
        case "sgd":
            return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov)
        case "adam":
            return torch.optim.Adam(groups, lr=settings.lr)
        case "adamw":
            return torch.optim.AdamW(groups, lr=settings.lr)


def learning_rate(schedule: Schedule, *, lr: float, step: int, steps: int) -> float:
    """Return the learning rate of a step.

    Args:
        schedule: How the rate changes.
        lr: Rate before the schedule.
        step: Number of the step, 0..steps - 1.
        steps: Steps of the whole run.
    """
    done = step / steps
    match schedule.kind:
        case "poly":
            factor = (1 - done) ** schedule.power
        case "cosine":
            factor = (1 + math.cos(math.pi * done)) / 2
        case "step":
            drops = sum(done >= share for share in schedule.at)
            drops += step // schedule.every if schedule.every else 0
            factor = schedule.gamma**drops
        case "exponential":
            assert schedule.every is not None
            factor = schedule.gamma ** (step / schedule.every)
        case "constant":
            factor = 1.0
    rate = max(lr * factor, min(schedule.floor, lr))
    return rate * min(1.0, (step + 1) / (schedule.warmup + 1))


def moving_decay(decay: float, count: int) -> float:
    """Return the decay of an exponential moving average that has `count` terms so far.

    With the full decay, the random weights of the beginning would count in the average for 1 / (1 - decay) steps and
    more, which is all of a short run. As in TensorFlow's `ExponentialMovingAverage` with `num_updates`.
    """
    return min(decay, (1 + count) / (10 + count))
