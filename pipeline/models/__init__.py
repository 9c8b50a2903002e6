"""The list of architectures. To add one: a file with its network and config, and a line here."""

from typing import Any

from pydantic import ValidationError
from torch import nn

from pipeline.models.config import ModelConfig
from pipeline.models.deeplabv3 import DeepLabV3Config
from pipeline.models.fcn import FCNConfig

ARCHITECTURES: dict[str, ModelConfig] = {
    "fcn32s": FCNConfig(stride=32),
    "fcn16s": FCNConfig(stride=16),
    "fcn8s": FCNConfig(stride=8),
    "deeplabv3_resnet18": DeepLabV3Config(depth=18),
    "deeplabv3_resnet50": DeepLabV3Config(depth=50),
}


def configure(name: str, options: dict[str, Any]) -> ModelConfig:
    """The configuration of an architecture by name, with some options changed.

    Raises:
        ValueError: an unknown name, an unknown option or a value that the architecture does not take.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown model '{name}'; there are {', '.join(ARCHITECTURES)}")
    preset = ARCHITECTURES[name]
    try:
        return type(preset)(**preset.model_dump() | options)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(type(preset).model_fields)
        option = ".".join(map(str, first["loc"]))
        raise ValueError(f"model '{name}', option '{option}': {first['msg']} (options: {known})") from None


def count_parameters(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
