"""Batch normalisation in training: over all workers, frozen, or with statistics computed anew. torch only."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


def norms(network: nn.Module) -> list[_BatchNorm]:
    """The network's batch normalisations."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def synchronise(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with statistics over all workers' batches: torch's on a GPU, ours, which is slower, elsewhere."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for norm in norms(network):
        norm.__class__ = SynchronisedBatchNorm2d
    return network


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batches of all workers, on any device; torch's `SyncBatchNorm` refuses CPUs."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # half precision is too coarse for sums
        count = x.new_tensor([x.numel() / x.shape[1]], dtype=wide.dtype)
        total = all_reduce(torch.cat([wide.sum(dim=(0, 2, 3)), count]))
        n = total[-1]
        mean = total[:-1] / n
        centred = wide - mean[:, None, None]
        variance = all_reduce(centred.square().sum(dim=(0, 2, 3))) / n
        self._follow(mean.detach(), (variance * n / (n - 1).clamp(min=1)).detach())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics; without a momentum they are the mean over all batches."""
        seen, running_mean, running_var = self.num_batches_tracked, self.running_mean, self.running_var
        assert seen is not None
        assert running_mean is not None
        assert running_var is not None
        seen.add_(1)
        share = 1 / float(seen) if self.momentum is None else self.momentum
        running_mean.lerp_(mean.to(running_mean.dtype), share)
        running_var.lerp_(variance.to(running_var.dtype), share)


def freeze(network: nn.Module) -> None:
    """Fix weight and bias; `train` would switch the statistics on again, see `still`."""
    for norm in norms(network):
        norm.requires_grad_(False)


def still(network: nn.Module) -> None:
    """Leave statistics alone in train mode: of norms whose weights do not learn."""
    for norm in norms(network):
        if not norm.weight.requires_grad:
            norm.eval()


@torch.no_grad()
def recompute(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace running statistics by their mean over some batches, with the weights as they are now.

    SegNet and DeconvNet do so before they test: the averages of training lag behind the weights.

    Args:
        network: left in train mode.
        batches: normalised images [batch, 3, height, width], at least one batch.
    """
    with _cumulative(network):
        network.train()
        still(network)
        for images in batches:
            network(images)


@contextmanager
def _cumulative(network: nn.Module) -> Iterator[None]:
    moving = [norm for norm in norms(network) if norm.weight.requires_grad]
    momenta = [norm.momentum for norm in moving]
    for norm in moving:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
    try:
        yield
    finally:
        for norm, momentum in zip(moving, momenta, strict=True):
            norm.momentum = momentum
