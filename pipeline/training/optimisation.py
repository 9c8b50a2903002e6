"""How weights follow gradients: groups of parameters, learning rates over a run. torch only."""

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
    """Exclude from learning what begins with one of the prefixes; the number of weights.

    Raises:
        UserError: a prefix fits no parameter, or nothing is left to learn.
    """
    names = [name for name, _ in network.named_parameters()]
    for prefix in prefixes:
        if not any(_below(name, prefix) for name in names):
            raise UserError(f"--freeze {prefix}: no parameter begins so; there are {_tops(names)}")
    count = 0
    for name, parameter in network.named_parameters():
        if any(_below(name, prefix) for prefix in prefixes):
            parameter.requires_grad_(False)
            count += parameter.numel()
    if not any(p.requires_grad for p in network.parameters()):
        raise UserError(f"--freeze {','.join(prefixes)}: nothing is left to learn")
    return count


def roles(network: nn.Module, score: set[str]) -> dict[str, set[str]]:
    """The roles of each parameter by name.

    Args:
        network: its backbone is what it calls `backbone`.
        score: names of the parameters of the layers that give the classes' scores.
    """
    norms = {
        f"{prefix}.{name}"
        for prefix, module in network.named_modules()
        if isinstance(module, _NormBase | nn.GroupNorm | nn.LayerNorm)
        for name, _ in module.named_parameters()
    }
    found = {}
    for name, _ in network.named_parameters():
        own = {"backbone"} if "backbone" in name.split(".") else {"head"}
        if name in score:
            own.add("score")
        if name in norms:
            own.add("norm")
        elif name.endswith("bias"):
            own.add("bias")
        found[name] = own
    return found


def parameter_groups(network: nn.Module, settings: Optimiser, score: set[str]) -> list[dict[str, Any]]:
    """The parameters that learn, grouped for an optimiser; `lr_scale` is the group's share of the learning rate.

    Raises:
        UserError: a multiplier is for what this network does not have.
    """
    of = roles(network, score)
    for option, multipliers in (("lr_of", settings.lr_of), ("decay_of", settings.decay_of)):
        for key in multipliers:
            if key not in ROLES and not any(_below(name, key) for name in of):
                raise UserError(
                    f"--optimiser.{option} {key}: neither a role ({', '.join(ROLES)}) nor the beginning of a "
                    f"parameter's name; there are {_tops(list(of))}"
                )
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            scales = (_product(settings.lr_of, name, of[name]), _product(settings.decay_of, name, of[name]))
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


def _product(multipliers: Mapping[str, float], name: str, own: set[str]) -> float:
    return math.prod(factor for key, factor in multipliers.items() if key in own or _below(name, key))


def _below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.removesuffix(".") + ".")


def _tops(names: list[str]) -> str:
    """Beginnings of names, for messages: `backbone.layer1, backbone.layer2, classifier`."""
    tops = {".".join(n.split(".")[:2]) if n.startswith("backbone.") else n.split(".")[0] for n in names}
    return ", ".join(sorted(tops))


def build_optimiser(network: nn.Module, settings: Optimiser, score: set[str]) -> torch.optim.Optimizer:
    """The optimiser of the parameters that learn; see `parameter_groups`."""
    groups = parameter_groups(network, settings, score)
    match settings.kind:
        case "sgd":
            return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov)
        case "adam":
            return torch.optim.Adam(groups, lr=settings.lr)
        case "adamw":
            return torch.optim.AdamW(groups, lr=settings.lr)


def learning_rate(schedule: Schedule, *, lr: float, step: int, steps: int) -> float:
    """The learning rate of a step.

    Args:
        schedule: see `Schedule`.
        lr: the rate that it changes.
        step: 0..steps - 1.
        steps: of the whole run.
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
