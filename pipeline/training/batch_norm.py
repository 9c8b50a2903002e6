"""Batch normalisation in training: synchronised over workers, frozen, or with recomputed statistics. torch only."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return the network's batch normalisation layers."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def synchronise(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with statistics over the batches of all workers.

    On a GPU these are torch's layers; elsewhere they are `SynchronisedBatchNorm2d`, which is slower.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for norm in batch_norms(network):
        norm.__class__ = SynchronisedBatchNorm2d
    return network


class _SumOverWorkers(torch.autograd.Function):
    """The sum of the workers' tensors, on each worker; its gradient is the sum of the workers' gradients."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batches of all workers, on any device; torch's `SyncBatchNorm` refuses CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [batch, channels, height, width]."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # half precision is too coarse for sums
        count = x.new_tensor([x.numel() / x.shape[1]], dtype=wide.dtype)
        total = _SumOverWorkers.apply(torch.cat([wide.sum(dim=(0, 2, 3)), count]))
        seen = total[-1] > 0  # a step may have no region at all, which says nothing of the statistics
        n = total[-1].clamp(min=1)
        mean = total[:-1] / n
        centred = wide - mean[:, None, None]
        variance = _SumOverWorkers.apply(centred.square().sum(dim=(0, 2, 3))) / n
        self._update_running_statistics(mean.detach(), (variance * n / (n - 1).clamp(min=1)).detach(), seen)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _update_running_statistics(self, mean: Tensor, variance: Tensor, seen: Tensor) -> None:
        """Update the running statistics if there is anything to learn from them.

        Without momentum they are the mean over all batches, as in torch.
        """
        batches, running_mean, running_var = self.num_batches_tracked, self.running_mean, self.running_var
        assert batches is not None
        assert running_mean is not None
        assert running_var is not None
        batches.add_(seen)
        weight = 1 / max(1.0, float(batches)) if self.momentum is None else self.momentum
        for running, found in ((running_mean, mean), (running_var, variance)):
            running.copy_(torch.where(seen, running.lerp(found.to(running.dtype), weight), running))


def freeze_weights(network: nn.Module) -> None:
    """Exclude the weights and biases of batch normalisation from learning; see also `freeze_statistics`."""
    for norm in batch_norms(network):
        norm.requires_grad_(False)


def freeze_statistics(network: nn.Module) -> None:
    """Put the layers with frozen weights into eval mode, so that their statistics do not change.

    Call it after every `network.train()`, which puts them back into train mode.
    """
    for norm in batch_norms(network):
        if not norm.weight.requires_grad:
            norm.eval()


@torch.no_grad()
def recompute_statistics(network: nn.Module, batches: Iterable[tuple[Any, ...]]) -> None:
    """Replace the running statistics by their mean over some batches with the present weights.

    SegNet and DeconvNet do so before testing, because the running averages of training lag behind the weights.

    Args:
        network: The network; it is left in train mode.
        batches: Arguments of the network for each batch, at least one.
    """
    with _cumulative_averages(network):
        network.train()
        freeze_statistics(network)
        for arguments in batches:
            network(*arguments)


@contextmanager
def _cumulative_averages(network: nn.Module) -> Iterator[None]:
    """Reset the statistics of the layers that learn, and make them plain means over batches within the context."""
    learning = [norm for norm in batch_norms(network) if norm.weight.requires_grad]
    momenta = [norm.momentum for norm in learning]
    for norm in learning:
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in zip(learning, momenta, strict=True):
            norm.momentum = momentum
