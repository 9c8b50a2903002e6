"""Networks with blocks left out or in another order, and the gradient along paths through them.

Veit, Wilber & Belongie, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks", NIPS 2016. With n
residual blocks, a network is the sum over 2^n paths, each of which takes the residual branch of some blocks and the
shortcut of the others:

    section 4.1   one block is removed: its shortcut stays, and half of the paths
    section 4.2   k blocks are removed
    section 4.3   blocks of the same shape change places
    section 5     the gradient at the image along single paths, by their length

In a plain network, such as VGG, each layer is on the only path. There a layer is a convolution that keeps the shape.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.models.layers import ResidualBlock


class Block(NamedTuple):
    """A part of a network that can be removed.

    Attributes:
        name: Its name in the network.
        module: A residual block, or a convolution that keeps the shape.
        shape: Channels, height and width of its input and of its output, of the images that `find_blocks` was given.
    """

    name: str
    module: nn.Module
    shape: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def residual(self) -> bool:
        """Whether it has a shortcut."""
        return isinstance(self.module, ResidualBlock)

    @property
    def transition(self) -> bool:
        """Whether its input and output have different shapes."""
        return self.shape[0] != self.shape[1]


@dataclass(frozen=True)
class Variant:
    """A network with some blocks removed, or in another order.

    Attributes:
        removed: Positions of the removed blocks in the order of computation.
        order: Which block computes at each position; empty if they are in their own order.
    """

    removed: frozenset[int] = frozenset()
    order: tuple[int, ...] = ()

    @property
    def first(self) -> int | None:
        """Position of the first block that differs from the intact network; None if none does."""
        moved = [position for position, block in enumerate(self.order) if position != block]
        return min([*self.removed, *moved], default=None)


def find_blocks(network: nn.Module, images: Tensor) -> list[Block]:
    """Return the residual blocks of a network in the order of computation; those of a plain network if it has none.

    Args:
        network: Network in eval mode.
        images: Normalised images [batch, 3, height, width].
    """
    residual = {name: m for name, m in network.named_modules() if isinstance(m, ResidualBlock)}
    plain = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    seen: dict[str, Block] = {}

    def see(name: str, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        seen.setdefault(name, Block(name, module, (tuple(given[0].shape[1:]), tuple(output.shape[1:]))))

    with ExitStack() as hooks, torch.inference_mode():
        for name, module in (residual or plain).items():
            hooks.enter_context(_removed_at_the_end(module.register_forward_hook(partial(see, name))))
        network(images)
    return [block for block in seen.values() if block.residual or not block.transition]


@contextmanager
def recorded(blocks: Sequence[Block]) -> Iterator[list[list[Tensor]]]:
    """Record what each block returns within the context, in a list of its outputs in the order of its calls."""
    outputs: list[list[Tensor]] = [[] for _ in blocks]

    def keep(i: int, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[i].append(output.clone())  # because a ReLU that follows may work in place

    with ExitStack() as hooks:
        for i, block in enumerate(blocks):
            hooks.enter_context(_removed_at_the_end(block.module.register_forward_hook(partial(keep, i))))
        yield outputs


@contextmanager
def altered(blocks: Sequence[Block], variant: Variant, intact: Sequence[Sequence[Tensor]]) -> Iterator[None]:
    """Let a network compute a variant within the context, on the images of `intact`.

    The blocks before the first altered one are not computed: their outputs are those of the intact network.

    Args:
        blocks: All blocks in the order of computation.
        variant: What is altered.
        intact: Outputs of each block of the intact network on the same images, as `recorded` keeps them.
    """
    first = len(blocks) if variant.first is None else variant.first
    forwards = [block.module.forward for block in blocks]
    for i, block in enumerate(blocks):
        if i < first:
            block.module.forward = partial(_replay, iter(intact[i]))
        elif i in variant.removed:
            block.module.forward = partial(_without, block.module)
        elif variant.order and variant.order[i] != i:
            block.module.forward = forwards[variant.order[i]]
    try:
        yield
    finally:
        for block in blocks:
            block.module.__dict__.pop("forward", None)


def _replay(outputs: Iterator[Tensor], x: Tensor) -> Tensor:
    return next(outputs).clone()


def _without(block: nn.Module, x: Tensor) -> Tensor:
    """Return what a block without its residual branch, or a network without this convolution, computes."""
    if not isinstance(block, ResidualBlock):
        return x
    shortcut, _ = block.branches(x)
    return block.after_sum(shortcut.clone())


class Gates:
    """A network whose backward pass takes one path: the residual branch of some blocks, the shortcut of the others.

    The forward pass is that of the intact network, and one forward pass serves any number of paths (section 5).

    Args:
        blocks: Residual blocks in the order of computation.

    Attributes:
        path: Positions of the blocks whose residual branch the gradient takes.
    """

    def __init__(self, blocks: Sequence[Block]):
        self.blocks = blocks
        self.path: frozenset[int] = frozenset()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let forward passes within the context prepare the gates."""
        for i, block in enumerate(self.blocks):
            block.module.forward = partial(self._forward, i)
        try:
            yield
        finally:
            for block in self.blocks:
                block.module.__dict__.pop("forward", None)

    def gradient(self, loss: Tensor, images: Tensor, path: frozenset[int]) -> Tensor:
        """Return the gradient of a loss at the images that it was computed from, along one path."""
        self.path = path
        (gradient,) = torch.autograd.grad(loss, images, retain_graph=True)
        return gradient

    def _forward(self, i: int, x: Tensor) -> Tensor:
        block = self.blocks[i].module
        assert isinstance(block, ResidualBlock)
        shortcut, residual = block.branches(x)
        shortcut = shortcut * 1  # a tensor of its own, whose gradient is this branch's alone
        shortcut.register_hook(lambda gradient: gradient * (i not in self.path))
        residual.register_hook(lambda gradient: gradient * (i in self.path))
        return block.after_sum(shortcut + residual)


@contextmanager
def _removed_at_the_end(hook: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        hook.remove()
