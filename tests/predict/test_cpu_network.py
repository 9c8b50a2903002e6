"""A network that is made faster for a CPU computes what it did."""

import copy

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from pipeline.predict.cpu_network import send_pointwise_to_onednn, suit_cpu
from tests.support.networks import narrow

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch has no oneDNN")


@needs_onednn
@pytest.mark.parametrize("stride", [1, 2])
def test_1x1_convolutions_go_to_onednn_on_one_thread(stride):
    layer = nn.Conv2d(8, 24, 1, stride=stride)
    images = torch.randn(5, 8, 30, 40)
    before = layer(images)
    send_pointwise_to_onednn(layer)
    with profile(activities=[ProfilerActivity.CPU]) as seen, torch.inference_mode():
        after = layer(images)
    assert torch.get_num_threads() == 1  # on more threads, they go there anyway
    assert "aten::mkldnn_convolution" in {event.key for event in seen.key_averages()}
    torch.testing.assert_close(after, before)


def test_convolutions_with_larger_kernels_keep_their_rate():
    layer = nn.Conv2d(4, 4, 3, padding=1)
    send_pointwise_to_onednn(layer)
    assert layer.dilation == (1, 1)


def test_nothing_changes_for_a_gpu():
    network = narrow("deeplabv3_resnet18").eval()
    before = str(network)
    suit_cpu(network, torch.device("cuda"))
    assert str(network) == before
    suit_cpu(network, torch.device("cpu"))
    assert str(network) != before


@pytest.mark.parametrize("name", ["deeplabv3_resnet18", "pspnet_resnet50", "unet", "fcn8s"])
def test_a_network_computes_the_same(name):
    torch.manual_seed(0)
    network = narrow(name).eval()
    faster = copy.deepcopy(network)
    suit_cpu(faster, torch.device("cpu"))
    images = torch.randn(2, 3, 64, 72)
    with torch.inference_mode():
        torch.testing.assert_close(faster(images).logits, network(images).logits, rtol=1e-3, atol=1e-4)
