"""Communication between training workers, as plain functions that do nothing for a single worker."""

from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.metrics.segmentation import Confusion

T = TypeVar("T")


def world_size() -> int:
    """Return the number of workers; 1 outside of a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this worker, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def sum_over_workers(values: Tensor) -> Tensor:
    """Return the sum of the workers' tensors, on each worker."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def sum_confusion(counts: Confusion, device: torch.device) -> Confusion:
    """Return the sum of the workers' counts in int64, on each worker."""
    others = [counts.ignored, counts.invalid_label, counts.invalid_prediction]
    flat = torch.from_numpy(np.concatenate([counts.matrix.ravel(), np.array(others, np.int64)]))
    values = sum_over_workers(flat.to(device)).cpu().numpy()
    return Confusion(values[:-3].reshape(counts.matrix.shape), *map(int, values[-3:]))


def broadcast_buffers(network: nn.Module) -> None:
    """Give every worker rank 0's batch-norm statistics, so that all validate the network that is stored."""
    if world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)


def concatenate_lists(values: list[T]) -> list[T]:
    """Return the workers' lists as one list, in the order of their ranks, on each worker."""
    if world_size() == 1:
        return values
    parts: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, values)
    return [value for part in parts for value in part]


def barrier() -> None:
    """Wait for all workers."""
    if world_size() > 1:
        dist.barrier()
