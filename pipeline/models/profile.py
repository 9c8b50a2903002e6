"""What a network costs, without running it: on the meta device tensors have shapes and no data."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models import count_parameters
from pipeline.models.config import ModelConfig


class Profile(NamedTuple):
    """Of one image.

    Attributes:
        parameters: trainable ones.
        output_stride: pixels per unit of the score map.
        macs: multiply-accumulate operations of the convolutions and linear layers in a forward pass.
        activation_bytes: what a float32 training step keeps from forward to backward pass, beside the weights.
    """

    parameters: int
    output_stride: int
    macs: int
    activation_bytes: int


def profile(config: ModelConfig, *, num_classes: int = 21, size: tuple[int, int] = (512, 512)) -> Profile:
    """The costs of an architecture for images of (height, width)."""
    with torch.device("meta"):
        model = config.build(num_classes)
        images = torch.empty(1, 3, *size)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(images)

    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # holding the storages keeps their addresses apart

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    # Two images, because batch normalisation of one 1x1 map is undefined.
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.train()(images.expand(2, -1, -1, -1))
    del output
    return Profile(
        parameters=count_parameters(model),
        output_stride=model.output_stride,  # type: ignore[arg-type]
        macs=counter.get_total_flops() // 2,
        activation_bytes=sum(storage.nbytes() for storage in kept.values()) // 2,
    )
