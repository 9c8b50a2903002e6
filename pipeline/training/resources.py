"""Memory use of a training process."""

import resource
import sys

import torch


def peak_memory_mib(device: torch.device) -> float:
    """Return the peak memory in MiB: of the tensors on a GPU, or of the whole process if it computes on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
