"""The cost of a network, found without computing: tensors on the meta device have shapes but no data."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models import count_parameters
from pipeline.models.config import ModelConfig
from pipeline.models.weightless import weightless


class Profile(NamedTuple):
    """The cost of a network for one image.

    Attributes:
        parameters: Number of trainable parameters.
        output_stride: Pixels of the image per unit of the score map.
        macs: Multiply-accumulate operations of the convolutions and linear layers in a forward pass.
        activation_bytes: Memory of the activations that a float32 training step keeps for the backward pass.
    """

    parameters: int
    output_stride: int
    macs: int
    activation_bytes: int


def profile(config: ModelConfig, *, num_classes: int = 21, size: tuple[int, int] = (512, 512)) -> Profile:
    """Return the cost of an architecture for an image of (height, width) `size`."""
    with weightless():
        model = config.build(num_classes)
    images = torch.empty(1, 3, *size, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(images)

    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # references to the storages, so that no address is reused

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    # A batch of two images, because batch normalisation of a single 1x1 map is undefined.
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.train()(images.expand(2, -1, -1, -1))
    del output
    return Profile(
        parameters=count_parameters(model),
        output_stride=model.output_stride,  # type: ignore[arg-type]
        macs=counter.get_total_flops() // 2,
        activation_bytes=sum(storage.nbytes() for storage in kept.values()) // 2,
    )
