"""A way around a bug of oneDNN, the library that computes PyTorch's convolutions on CPUs."""

from torch import Tensor, nn
from torch.nn import functional as F

SAFE_CHANNELS = 16


class SlicedConv2d(nn.Conv2d):
    """A strided 1x1 convolution, computed without stride on the pixels that it reads: the same function."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of [batch, channels, height, width]."""
        rows, columns = self.stride[:2]
        return F.conv2d(x[..., ::rows, ::columns], self.weight, self.bias)


def avoid_overflow(network: nn.Module) -> None:
    """Replace the convolutions whose backward pass writes past its buffer in oneDNN 3.13 on processors with AVX-512.

    These are strided 1x1 convolutions with fewer than 16 input channels in channels-last memory, such as the
    projections of a ResNet of width 0.125 (uxlfoundation/oneDNN#6035). The process crashes.

    Args:
        network: It is changed; names and shapes of its parameters stay the same.
    """
    for module in network.modules():
        if type(module) is nn.Conv2d and _overflows(module):
            module.__class__ = SlicedConv2d


def _overflows(conv: nn.Conv2d) -> bool:
    plain = conv.kernel_size == (1, 1) and conv.padding in (0, (0, 0)) and conv.groups == 1
    return plain and max(conv.stride) > 1 and conv.in_channels < SAFE_CHANNELS
