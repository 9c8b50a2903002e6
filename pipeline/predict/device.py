"""The device and precision of networks, and the normalisation of their input."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data.preprocessing import DType, Preprocessing
from pipeline.errors import ImageFault


class NotFiniteError(ImageFault):
    """The network's scores of an image hold NaN or infinity."""


def pick_device() -> torch.device:
    """Return the GPU that this process was given, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Return "cpu", or the name of the GPU's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def set_threads(device: torch.device, cpus: int | None) -> None:
    """Let PyTorch compute with some threads: the CPUs of this process, but one beside a GPU."""
    torch.set_num_threads(1 if device.type == "cuda" else cpus or 1)


def streams(device: torch.device) -> int:
    """Return how many batches a device computes at a time: one is copied while a GPU computes another."""
    return 2 if device.type == "cuda" else 1


def place(model: nn.Module, device: torch.device) -> Any:
    """Move a network to a device, with its weights in the memory format that is fastest in cuDNN and oneDNN."""
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def autocast(device: torch.device, dtype: DType) -> torch.autocast:
    """Return the context in which a network computes with a dtype; it changes nothing for float32."""
    return torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32")


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise uint8 [batch, height, width, 3] to float32 [batch, 3, height, width] in channels-last memory."""
    mean = torch.tensor(preprocessing.mean, device=pixels.device) * 255
    std = torch.tensor(preprocessing.std, device=pixels.device) * 255
    return (pixels - mean).div_(std).permute(0, 3, 1, 2)
