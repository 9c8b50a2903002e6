"""Initialisation of networks from the weights of torchvision or of another of our networks."""

from typing import NamedTuple

from torch import Tensor, nn

from pipeline.models.multi_scale import MultiScale

# Where the tensors of a checkpoint may be in a network: a classifier's in our backbones, those of a detector of
# torchvision in `network`, and a classifier's in its backbone.
PREFIXES = ("backbone", "network", "network.backbone.body", "network.backbone")


class Loaded(NamedTuple):
    """A report on loaded weights.

    Attributes:
        loaded: Names of the network's tensors that the checkpoint filled.
        fresh: Names of the network's tensors that keep their initialisation.
        unused: Names of the checkpoint's tensors that have no place in the network.
    """

    loaded: list[str]
    fresh: list[str]
    unused: list[str]

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded"
        for names, what in ((self.fresh, "left as initialised"), (self.unused, "of the checkpoint not used")):
            if names:
                text += f"; {len(names)} {what} ({', '.join(sorted({n.split('.')[0] for n in names}))})"
        return text


def load_pretrained(model: nn.Module, checkpoint: dict[str, Tensor]) -> Loaded:
    """Load the tensors of a state dict that fit the network.

    The state dict comes from another of our networks (an FCN-32s for an FCN-16s), from a torchvision classifier
    (AlexNet, VGG16, GoogLeNet or ResNet, for the backbone), or from a torchvision segmentation network. The fully
    connected layers of a classifier are reshaped into the convolutions that the network names in `pretrained_layers`.

    Args:
        model: Network to load the weights into.
        checkpoint: State dict, from names to tensors.

    Returns:
        The names of the tensors that were loaded and of those that were not.

    Raises:
        ValueError: The checkpoint lacks a tensor of the backbone, or none of its tensors fits the network.
    """
    if isinstance(model, MultiScale):
        checkpoint = {name.removeprefix("network."): tensor for name, tensor in checkpoint.items()}
        model = model.network
    target = model.state_dict()
    layers = getattr(model, "pretrained_layers", {})
    renamed = {_target_name(name, target, layers): tensor for name, tensor in checkpoint.items()}
    fitting: dict[str, Tensor] = {}
    for name, tensor in renamed.items():
        if name in target and _fits(tensor, target[name]):
            fitting[name] = tensor.reshape(target[name].shape)
    missing = [
        n for n in target if n.startswith("backbone.") and n not in fitting and not n.endswith("num_batches_tracked")
    ]
    if missing:
        found = next((n for n in renamed if n == missing[0]), None)
        why = f"has shape {tuple(renamed[found].shape)}, not {tuple(target[found].shape)}" if found else "is not in it"
        raise ValueError(
            f"the checkpoint does not fit this backbone: {len(missing)} tensors of it, the first '{missing[0]}', {why}"
        )
    if not fitting:
        raise ValueError("the checkpoint does not fit this network: none of its tensors has a place in it")
    model.load_state_dict(fitting, strict=False)
    return Loaded(
        loaded=list(fitting),
        fresh=[n for n in target if n not in fitting],
        unused=[n for n in renamed if n not in fitting],
    )


def _fits(tensor: Tensor, target: Tensor) -> bool:
    """Return whether the shapes are equal, or a fully connected layer fits a convolution that covers its input."""
    linear = tensor.dim() == 2 and target.dim() == 4 and len(tensor) == len(target)
    return tensor.shape == target.shape or (linear and tensor.numel() == target.numel())


def _target_name(name: str, target: dict[str, Tensor], layers: dict[str, str]) -> str:
    """Return the name that a tensor of the checkpoint has in the network."""
    layer, _, kind = name.rpartition(".")
    if layer in layers:
        return f"{layers[layer]}.{kind}"
    places = (f"{prefix}.{name}" for prefix in PREFIXES)
    return next((place for place in places if place in target), name)
