"""Conversion of a classifier with fully connected layers into a fully convolutional network.

Long, Shelhamer & Darrell, CVPR 2015, section 3.1. A fully connected layer on a map of C channels and k x k units is a
k x k convolution with the same weights; later fully connected layers are 1x1 convolutions. On an image larger than
the classifier's window, the result is the classifier's score of every window, as if it slid over the image in steps of
its stride, but overlapping windows share the computation (`python -m benchmarks.models sliding`).

This is exact for convolutions without padding. A padded convolution sees zeros beyond a window that is cut out, but
the image itself beyond a window that is not, so the scores differ, and more so in deeper networks. `without_padding`
returns a network for which both agree; its window is its receptive field (404 pixels for VGG16 and 355 for AlexNet,
in place of 224).
"""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def convolutionalize(features: nn.Module, fully_connected: nn.Sequential, *, channels: int) -> nn.Sequential:
    """Return the fully convolutional network of a classifier, with copies of its weights.

    Args:
        features: Convolutional part, such as torchvision's `vgg16().features`.
        fully_connected: Linear layers and the layers between them, such as `vgg16().classifier`.
        channels: Channels of the map that the first linear layer takes as a vector.

    Returns:
        A network from images [batch, 3, height, width] to scores [batch, classes, h, w].

    Raises:
        ValueError: The number of inputs of the first linear layer is not that of a square map.
    """
    dense: list[nn.Module] = []
    side: int | None = None
    for layer in fully_connected:
        if not isinstance(layer, nn.Linear):
            dense.append(copy.deepcopy(layer))
            continue
        if side is None:
            side = math.isqrt(layer.in_features // channels)
            if side * side * channels != layer.in_features:
                raise ValueError(f"{layer.in_features} inputs do not form a square map of {channels} channels")
            dense.append(_as_convolution(layer, channels, side))
        else:
            dense.append(_as_convolution(layer, layer.in_features, 1))
    return nn.Sequential(copy.deepcopy(features), *dense)


def _as_convolution(layer: nn.Linear, channels: int, side: int) -> nn.Conv2d:
    """Return the convolution with the weights of a linear layer on a map of side x side units."""
    weight = layer.weight
    convolution = nn.Conv2d(
        channels, layer.out_features, side, bias=layer.bias is not None, device=weight.device, dtype=weight.dtype
    )
    with torch.no_grad():
        convolution.weight.copy_(weight.view_as(convolution.weight))
        if layer.bias is not None and convolution.bias is not None:
            convolution.bias.copy_(layer.bias)
    return convolution


def without_padding(features: Network) -> Network:
    """Return a copy whose convolutions and pools have no padding and whose pools round sizes down."""
    copied = copy.deepcopy(features)
    for layer in copied.modules():
        if isinstance(layer, nn.Conv2d):
            layer.padding = (0, 0)
        elif isinstance(layer, nn.MaxPool2d):
            layer.padding, layer.ceil_mode = 0, False
    return copied
