"""Narrow networks train on processors on which oneDNN writes past its buffer."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from pipeline.models import configure
from pipeline.training.onednn import SlicedConv2d, avoid_overflow
from tests.support.jobs import REPO


@pytest.mark.parametrize(("channels", "stride", "bias"), [(8, 2, False), (15, (3, 2), True), (1, 2, False)])
def test_a_replaced_convolution_is_the_same_function(channels: int, stride: int | tuple[int, int], bias: bool) -> None:
    """In float64, which oneDNN does not compute: outputs and gradients are equal but for the order of sums."""
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, 12, 1, stride=stride, bias=bias).double()
    sliced = copy.deepcopy(plain)
    avoid_overflow(sliced)
    assert isinstance(sliced, SlicedConv2d)
    assert sliced.state_dict().keys() == plain.state_dict().keys()
    for size in ((1, 1), (7, 8), (12, 9)):
        images = [torch.randn(2, channels, *size).double().requires_grad_()]
        images.append(images[0].detach().clone().requires_grad_())
        outputs = [conv(x) for conv, x in zip((plain, sliced), images, strict=True)]
        torch.testing.assert_close(outputs[1], outputs[0])
        for output in outputs:
            output.square().sum().backward()
        torch.testing.assert_close(images[1].grad, images[0].grad)
        for name, parameter in plain.named_parameters():
            torch.testing.assert_close(sliced.get_parameter(name).grad, parameter.grad)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 4, 1, stride=2),
        nn.Conv2d(8, 4, 1),
        nn.Conv2d(8, 4, 3, stride=2),
        nn.Conv2d(8, 4, 1, stride=2, padding=1),
        nn.Conv2d(8, 4, 1, stride=2, groups=2),
    ],
)
def test_other_convolutions_stay(conv: nn.Conv2d) -> None:
    avoid_overflow(conv)
    assert type(conv) is nn.Conv2d


def test_networks_of_full_width_stay() -> None:
    network = configure("deeplabv3_resnet50", {}).build(21)
    avoid_overflow(network)
    assert not any(isinstance(module, SlicedConv2d) for module in network.modules())


def test_a_narrow_network_trains_in_channels_last_memory() -> None:
    """In a process of its own, because the overflow ends it: without the replacement, on AVX-512, in the first step."""
    code = """
import torch
from pipeline.models import configure
from pipeline.predict.device import place
from pipeline.training.onednn import avoid_overflow

torch.manual_seed(0)
network = place(configure("deeplabv3_resnet18", {"width": 0.125}).build(11), torch.device("cpu")).train()
avoid_overflow(network)
for _ in range(3):
    images = torch.randn(8, 3, 240, 320).to(memory_format=torch.channels_last)
    network(images).logits.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    network.zero_grad()
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
