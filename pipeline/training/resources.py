"""What a training process has used of its machine."""

import resource
import sys

import torch


def peak_memory_mib(device: torch.device) -> float:
    """The largest memory so far: what tensors took on a GPU, or the process on a CPU; MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
