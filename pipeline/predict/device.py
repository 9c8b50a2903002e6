"""The device and precision of networks, and the normalisation of their input."""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.data.preprocessing import DType, Preprocessing
from pipeline.errors import ImageFault

_OF_THREAD = threading.local()


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
    """Return how many batches a device has at a time: while a GPU computes one, others are copied to it and from it."""
    return 4 if device.type == "cuda" else 1


def free_memory(device: torch.device) -> None:
    """Return a GPU's memory that no tensor uses to the system."""
    if device.type == "cuda":
        with suppress(RuntimeError):  # of a GPU that has failed, which `is_lost` tells
            torch.cuda.empty_cache()


def is_lost(device: torch.device) -> bool:
    """Tell whether a GPU has failed for good: after an illegal access, for example, every call of the process fails."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.current_stream(device).synchronize()
    except RuntimeError:
        return True
    return False


def upload(images: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """Copy images of one shape to a device, uint8 [batch, height, width, 3].

    On a GPU they go through pinned memory, so that the copy runs beside the computation of another stream.
    """
    if device.type != "cuda":
        return torch.from_numpy(np.stack(images))
    pinned = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, pin_memory=True)
    np.stack(images, out=pinned.numpy())
    return pinned.to(device, non_blocking=True)


def own_stream(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which this thread computes on a CUDA stream of its own, beside those of other threads."""
    if device.type != "cuda":
        return nullcontext()
    if not hasattr(_OF_THREAD, "stream"):
        _OF_THREAD.stream = torch.cuda.Stream(device)
        _OF_THREAD.stream.wait_stream(torch.cuda.default_stream(device))  # which copies the weights
    return torch.cuda.stream(_OF_THREAD.stream)


def place(model: nn.Module, device: torch.device) -> Any:
    """Move a network to a device, with its weights in the memory format that is fastest in cuDNN and oneDNN."""
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def autocast(device: torch.device, dtype: DType, *, cached: bool = False) -> torch.autocast:
    """Return the context in which a network computes with a dtype; it changes nothing for float32.

    Args:
        device: The device.
        dtype: "float32", "bfloat16" or "float16".
        cached: Keep weights that have been cast until the context ends, which training needs. Only where one thread
            computes: all threads share the kept weights, and while one of them compiles, another that drops them
            can wait for it for ever.
    """
    return torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32", cache_enabled=cached)


class Normalisation:
    """Normalises images for a network on a device, which keeps the constants.

    Args:
        preprocessing: Mean and standard deviation of each channel.
        device: The device.
    """

    def __init__(self, preprocessing: Preprocessing, device: torch.device):
        self._mean = torch.tensor(preprocessing.mean, device=device) * 255
        self._std = torch.tensor(preprocessing.std, device=device) * 255

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 [batch, height, width, 3] to float32 [batch, 3, height, width] in channels-last memory."""
        width = pixels.shape[2]
        rows = pixels.flatten(2)  # a CPU takes five times as long over rows of three values
        rows = (rows - self._mean.repeat(width)).div_(self._std.repeat(width))
        return rows.unflatten(2, (width, -1)).permute(0, 3, 1, 2)


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise uint8 [batch, height, width, 3] once; see `Normalisation`."""
    return Normalisation(preprocessing, pixels.device)(pixels)
