"""Slim networks for the tests, with weights and statistics of a sensible scale, and torchvision's classifiers."""

import torch
from torch import Tensor, nn

from pipeline.models import configure

NARROW = {"width": 0.125}


def narrow(name: str, num_classes: int = 5, **options: object) -> nn.Module:
    """A slim network whose scores differ: FCN's score layers start at zero, DeepLab's close to it."""
    return with_scores(configure(name, NARROW | options).build(num_classes))


def with_scores(model: nn.Module) -> nn.Module:
    """The network with random weights in the layers that start at (almost) zero, so that their scores matter."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.std() < 0.02:
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    return model


def liven(model: nn.Module) -> nn.Module:
    """Batch normalisation of unlike channels, so that a statistic that is mixed up shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


@torch.no_grad()
def settle(model: nn.Module, images: Tensor) -> nn.Module:
    """`liven`, with the statistics of some images: a hundred layers then neither explode nor die out."""
    norms = [module for module in liven(model).modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    model(images)
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1
    return model
