"""Networks for tests, with weights and statistics of a realistic scale.

The functions return `Any`, because a type checker knows the attributes of an `nn.Module` only as `Tensor | Module`.
"""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from pipeline.models import configure
from pipeline.models.layers import kaiming

NARROW = {"width": 0.125}


def narrow(name: str, num_classes: int = 5, **options: object) -> Any:
    """Return an architecture at an eighth of its width, with scores that depend on the image (see `with_scores`)."""
    return with_scores(configure(name, NARROW | options).build(num_classes))


def with_scores(model: nn.Module) -> Any:
    """Give random weights to the layers that start at or close to zero, as FCN's and DeepLab's score layers do."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.std() < 0.02:
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    return model


def liven(model: nn.Module) -> Any:
    """Give every batch normalisation random statistics and weights per channel, and put the model in eval mode.

    A mistake in the order of channels or statistics then changes the output.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


@torch.no_grad()
def settle(model: nn.Module, images: Tensor) -> Any:
    """Like `liven`, but with the statistics of some images, so that deep networks neither explode nor vanish."""
    norms = [module for module in liven(model).modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    model(images)
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1
    return model


def torchvision_model(name: str) -> Any:
    """Return a torchvision classifier in float64 and eval mode, with random weights.

    AlexNet and VGG come without their fully connected layers, whose initialisation takes seconds.
    """
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        model: Any = torchvision.models.get_model(name, **options)
        if hasattr(model, "classifier"):
            model.classifier = nn.Identity()
    model = model.to_empty(device="cpu")
    kaiming(model.modules())
    return liven(model).double()
