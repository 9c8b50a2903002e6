"""The few things that training workers tell each other, as plain functions that do nothing for a single worker."""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.metrics.segmentation import Confusion


def world_size() -> int:
    """The number of workers; 1 outside of a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This worker's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def summed(values: Tensor) -> Tensor:
    """The sum over workers, on each of them."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def summed_confusion(counts: Confusion, device: torch.device) -> Confusion:
    """The sum of the workers' counts, on each of them, in int64."""
    rest = [counts.ignored, counts.invalid_label, counts.invalid_prediction]
    flat = torch.from_numpy(np.concatenate([counts.matrix.ravel(), np.array(rest, np.int64)]))
    values = summed(flat.to(device)).cpu().numpy()
    return Confusion(values[:-3].reshape(counts.matrix.shape), *map(int, values[-3:]))


def share_buffers(network: nn.Module) -> None:
    """Give every worker rank 0's batch-norm statistics, so that all validate the network that is stored."""
    if world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)


def gathered(values: list) -> list:
    """The workers' lists as one, in the order of their ranks, on each of them."""
    if world_size() == 1:
        return values
    parts: list[list] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, values)
    return [value for part in parts for value in part]


def barrier() -> None:
    """Wait for all workers."""
    if world_size() > 1:
        dist.barrier()
