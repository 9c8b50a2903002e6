"""Batch normalisation of a trained network, folded into the convolutions before it."""

import itertools

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def fold_batch_norm(network: nn.Module) -> None:
    """Give convolutions the scale and shift of the batch normalisation that follows them, in place.

    In eval mode, scale · (w * x - mean) + shift = (scale · w) * x + (shift - scale · mean), which saves a pass over the
    map; results differ in their last bits. (A GPU adds the bias in a pass of its own, which should save none there.)

    Layers follow each other in an `nn.Sequential`, and as children `conv`, `bn`, `conv1`, `bn1`, … of other modules.

    Args:
        network: Network in eval mode; it cannot be trained any more.
    """
    for module in list(network.modules()):
        for (name, layer), (following, norm) in itertools.pairwise(list(module.named_children())):
            if type(layer) is nn.Sequential and len(layer) > 0:  # PSPNet's stem
                layer = layer[-1]
            adjacent = type(module) is nn.Sequential or following == name.replace("conv", "bn")
            if adjacent and isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and isinstance(norm, nn.BatchNorm2d):
                _fold(layer, norm)
                setattr(module, following, nn.Identity())


def _fold(convolution: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
        transpose=isinstance(convolution, nn.ConvTranspose2d),
    )
