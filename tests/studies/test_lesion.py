"""Variants of a network against networks built by hand, and gradients along paths against sums over all paths."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import configure
from pipeline.models.layers import ResidualBlock
from pipeline.studies.lesion import Block, Gates, Variant, altered, find_blocks, recorded


class Doubling(ResidualBlock):
    """A linear residual block, whose paths can be computed by hand."""

    def __init__(self, features: int):
        super().__init__()
        self.body = nn.Linear(features, features, bias=False)

    def branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.body(x)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


def lively(name: str, options: dict[str, Any], classes: int = 4) -> Any:
    """A network in eval mode whose residual branches are not zero."""
    network = configure(name, options).build(classes).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
    return network


def module_of(block: Block) -> Any:
    return block.module


NETWORKS = [
    ("resnet110", {"depth": 20}, 9),
    ("wrn_16_4", {"width": 0.5}, 6),
    ("resnet18_cam", {"width": 0.125}, 8),
    ("resnet50_cam", {"width": 0.125}, 16),
    ("deeplabv3_resnet18", {"width": 0.125}, 8),
    ("fusionnet", {"width": 0.125}, 9),
    ("frrn_a", {"width": 0.25}, 6),
    ("vgg16_cam", {"width": 0.125}, 9),
    ("vgg16_cam", {"width": 0.125, "batch_norm": True}, 9),
]
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "options", "count"), NETWORKS)
def test_blocks_are_found_in_the_order_of_computation(name, options, count):
    network = lively(name, options)
    blocks = find_blocks(network, IMAGES)
    assert len(blocks) == count
    assert all(block.residual for block in blocks) == (name != "vgg16_cam")
    named = dict(network.named_modules())
    assert all(named[block.name] is block.module for block in blocks)
    assert not network.training
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(("name", "options", "count"), NETWORKS)
def test_a_removed_block_equals_one_whose_residual_branch_returns_zero(name, options, count):
    network = lively(name, options)
    blocks = find_blocks(network, IMAGES)
    with torch.inference_mode(), recorded(blocks) as intact:
        before = network(IMAGES).logits
    for i, block in enumerate(blocks):
        with torch.inference_mode(), altered(blocks, Variant(removed=frozenset({i})), intact):
            removed = network(IMAGES).logits
        if block.residual:
            module = module_of(block)
            last = next(getattr(module, name) for name in ("body", "bn3", "bn2") if hasattr(module, name))
            handle = last.register_forward_hook(lambda module, given, output: output * 0)
        else:
            handle = block.module.register_forward_hook(lambda module, given, output: given[0])
        with torch.inference_mode():
            expected = network(IMAGES).logits
        handle.remove()
        torch.testing.assert_close(removed, expected)
        assert not torch.equal(removed, before)
    with torch.inference_mode():
        assert torch.equal(network(IMAGES).logits, before)


def test_blocks_before_the_first_altered_one_are_not_computed():
    network = lively("resnet110", {"depth": 20})
    blocks = find_blocks(network, IMAGES)
    with torch.inference_mode(), recorded(blocks) as intact:
        network(IMAGES)
    calls = []
    for i, block in enumerate(blocks):
        module_of(block).pre.register_forward_hook(lambda *_, i=i: calls.append(i))
    with torch.inference_mode(), altered(blocks, Variant(removed=frozenset({6})), intact):
        network(IMAGES)
    assert calls == [6, 7, 8]


def test_a_network_that_sees_an_image_at_several_scales_is_altered_at_each():
    network = lively("deeplabv2_resnet101", {"width": 0.0625, "multi_scale": True})
    blocks = find_blocks(network, IMAGES)
    with torch.inference_mode(), recorded(blocks) as intact:
        network(IMAGES)
    assert {len(outputs) for outputs in intact} == {3}
    last = len(blocks) - 1
    with torch.inference_mode(), altered(blocks, Variant(removed=frozenset({last})), intact):
        removed = network(IMAGES).logits
    module_of(blocks[last]).bn3.register_forward_hook(lambda module, given, output: output * 0)
    with torch.inference_mode():
        torch.testing.assert_close(removed, network(IMAGES).logits)


def test_swapped_blocks_compute_in_each_others_place():
    network = lively("resnet110", {"depth": 20})
    blocks = find_blocks(network, IMAGES)
    with torch.inference_mode(), recorded(blocks) as intact:
        network(IMAGES)
    order = (0, 2, 1, 3, 4, 5, 6, 7, 8)
    with torch.inference_mode(), altered(blocks, Variant(order=order), intact):
        swapped = network(IMAGES).logits
    group = network.groups[0]
    network.groups[0] = nn.Sequential(group[0], group[2], group[1])
    with torch.inference_mode():
        assert torch.equal(swapped, network(IMAGES).logits)


def test_gradients_along_all_paths_add_up_to_the_gradient():
    blocks = nn.Sequential(*(Doubling(3).double() for _ in range(4)))
    found = find_blocks(blocks, torch.randn(5, 3, dtype=torch.float64))
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randn(5, 3, dtype=torch.float64)
    gates = Gates(found)
    with gates.installed():
        loss = ((blocks(x) - target) ** 2).sum()
    total = torch.zeros_like(x)
    for length in range(5):
        for path in itertools.combinations(range(4), length):
            gradient = gates.gradient(loss, x, frozenset(path))
            expected = 2 * (blocks(x) - target)
            for i in reversed(path):
                expected = expected @ module_of(found[i]).body.weight
            torch.testing.assert_close(gradient, expected)
            total += gradient
    whole = x.detach().requires_grad_()
    ((blocks(whole) - target) ** 2).sum().backward()
    torch.testing.assert_close(total, whole.grad)


def test_the_forward_pass_with_gates_is_that_of_the_intact_network():
    network = lively("resnet18_cam", {"width": 0.125})
    blocks = find_blocks(network, IMAGES)
    gates = Gates(blocks)
    images = IMAGES.clone().requires_grad_()
    with gates.installed():
        gated = network(images).logits
    assert torch.equal(gated, network(IMAGES).logits)
    loss = gated.sum()
    assert gates.gradient(loss, images, frozenset()).norm() > 0
    assert gates.gradient(loss, images, frozenset({1, 2})).norm() > 0
