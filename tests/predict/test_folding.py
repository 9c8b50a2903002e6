"""Folded networks compute what they did, without batch normalisation after a convolution."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from pipeline.models import ARCHITECTURES, CLASSIFIERS, configure
from pipeline.predict.folding import fold_batch_norm
from tests.support.networks import narrow, settle

SMALL: dict[str, dict[str, Any]] = {
    "wrn_28_10": {"depth": 10, "widen": 2},
    "wrn_40_4": {"depth": 10, "widen": 1},
    "wrn_16_4": {"depth": 16, "widen": 1},
    "resnet110": {"depth": 8},
}
# Of pre-activation networks: the first of each block, and one after the last sum. Of DeepLab v3: that of a map of 1x1.
LEFT = {"wrn_28_10": 4, "wrn_40_4": 4, "wrn_16_4": 7, "resnet110": 4}
LEFT |= dict.fromkeys((name for name in ARCHITECTURES if name.startswith("deeplabv3")), 1)


def norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", [*ARCHITECTURES, *CLASSIFIERS])
def test_a_folded_network_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    size = (224, 224) if "deconvnet" in name else (64, 72)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    network = settle(narrow(name, **SMALL.get(name, {})).double(), images)
    folded = copy.deepcopy(network)
    fold_batch_norm(folded)

    assert len(norms(folded)) == LEFT.get(name, 0)
    with torch.inference_mode():
        before, after = (tree_leaves(each(images)) for each in (network, folded))
    for x, y in zip(before, after, strict=True):
        assert torch.allclose(x, y, rtol=0, atol=1e-9 * x.abs().max().item())


def test_a_yolo_with_batch_normalisation_folds_too() -> None:
    network = configure("yolo_fast", {"width": 0.05, "grid": 3, "batch_norm": True}).build(3).eval()
    assert norms(network)
    fold_batch_norm(network)
    assert not norms(network)
