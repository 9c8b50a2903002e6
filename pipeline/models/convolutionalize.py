"""A classifier with fully connected layers as a network that scores every place of an image.

Long, Shelhamer & Darrell, CVPR 2015, section 3.1. A fully connected layer on a map of C channels and k x k units is a
k x k convolution with the same weights; the ones after it are 1x1 convolutions. On an image larger than the
classifier's window the result is the classifier's score at every window, as if it were slid over the image in steps
of its stride, but windows share the work where they overlap (`python -m benchmarks.models sliding`).

That is exact for convolutions without padding. A padded convolution sees zeros beyond the window when the window is
cut out, and the image itself when it is not: scores then differ, the more the deeper the network. `without_padding`
makes the classifier for which both agree; its window is its receptive field (404 pixels for VGG16, 355 for AlexNet,
in place of 224).
"""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def convolutionalize(features: nn.Module, fully_connected: nn.Sequential, *, channels: int) -> nn.Sequential:
    """The dense network of a classifier, with the same weights (copied).

    Args:
        features: the convolutional part, as of torchvision's `vgg16().features`.
        fully_connected: linear layers and what lies between them, as `vgg16().classifier`.
        channels: of the map that the first linear layer flattens.

    Returns:
        A network from images [batch, 3, height, width] to scores [batch, classes, h, w].

    Raises:
        ValueError: the first linear layer does not fit a square map of so many channels.
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
                raise ValueError(f"{layer.in_features} inputs are no square map of {channels} channels")
            dense.append(_as_convolution(layer, channels, side))
        else:
            dense.append(_as_convolution(layer, layer.in_features, 1))
    return nn.Sequential(copy.deepcopy(features), *dense)


def _as_convolution(layer: nn.Linear, channels: int, side: int) -> nn.Conv2d:
    convolution = nn.Conv2d(channels, layer.out_features, side, bias=layer.bias is not None)
    with torch.no_grad():
        convolution.weight.copy_(layer.weight.view_as(convolution.weight))
        if layer.bias is not None and convolution.bias is not None:
            convolution.bias.copy_(layer.bias)
    return convolution


def without_padding(features: Network) -> Network:
    """A copy whose convolutions and poolings see nothing but their input; pooling rounds down."""
    copied = copy.deepcopy(features)
    for layer in copied.modules():
        if isinstance(layer, nn.Conv2d):
            layer.padding = (0, 0)
        elif isinstance(layer, nn.MaxPool2d):
            layer.padding, layer.ceil_mode = 0, False
    return copied
