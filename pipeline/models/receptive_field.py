"""How much of the image one unit of a map sees."""

from collections.abc import Iterable

from torch import nn

WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def receptive_field(layers: Iterable[nn.Module]) -> int:
    """The side, in pixels, of the square that a unit after these layers depends on.

    Each layer of kernel k and atrous rate r widens the field by (k - 1) r times the stride that the layers
    before it have together: r_n = r_(n-1) + (k - 1) r s_1 … s_(n-1).

    Args:
        layers: one after the other, along the longest path; what has no window (ReLU, …) is passed over, and a
            container is entered.
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
