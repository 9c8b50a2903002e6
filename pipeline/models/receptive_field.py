"""The receptive field: how much of the image one unit of a map sees."""

from collections.abc import Iterable

from torch import nn

WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def receptive_field(layers: Iterable[nn.Module]) -> int:
    """Return the side in pixels of the square that a unit after some layers depends on.

    A layer with kernel k, atrous rate r and strides s_1 … s_(n-1) before it enlarges the receptive field f by
    (k - 1) r times the product of those strides: f_n = f_(n-1) + (k - 1) r s_1 … s_(n-1).

    Args:
        layers: Layers, or containers of layers, in the order of the longest path. Layers without a window, such as
            ReLU, are ignored.
    """
    field, jump = 1, 1
    for layer in (leaf for module in layers for leaf in module.modules()):
        if isinstance(layer, WINDOWED):
            kernel, stride, rate = (_first(getattr(layer, name, 1)) for name in ("kernel_size", "stride", "dilation"))
            field += (kernel - 1) * rate * jump
            jump *= stride
    return field


def _first(value: int | tuple[int, ...]) -> int:
    return value[0] if isinstance(value, tuple) else value
