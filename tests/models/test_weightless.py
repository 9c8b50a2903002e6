"""Networks without weights."""

import pytest
import torch

from pipeline.models import all_models
from pipeline.models.weightless import weightless


@pytest.mark.parametrize("name", ["deeplabv3_resnet18", "deeplabv2_vgg16", "resnet18_cam", "yolo_fast"])
def test_it_has_the_shapes_of_a_network(name):
    config = all_models()[name]
    with weightless():
        network = config.build(3)
    state = network.state_dict()
    assert {tensor.device.type for tensor in state.values()} == {"meta"}
    assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in config.build(3).state_dict().items()}


def test_weights_are_random_again_after_it():
    with weightless():
        torch.nn.Linear(2, 2)
    assert torch.nn.Linear(2, 2).weight.unique().numel() == 4
