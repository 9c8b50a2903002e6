"""Published torchvision weights, and our own, into our networks. torch only; see `bundle` for storage."""

from typing import NamedTuple

from torch import Tensor, nn

from pipeline.models.multi_scale import MultiScale


class Loaded(NamedTuple):
    """Names of the model's tensors that were loaded, those left as initialised, and the checkpoint's unused."""

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
    """Load what fits of a state dict: of one of our networks (an FCN-32s into an FCN-16s), of a torchvision
    classifier (AlexNet, VGG16, ResNet) into the backbone, or of a torchvision segmentation network into the whole.

    A classifier's fully connected layers become convolutions (same weights, reshaped) where the network has them: it
    names them in `pretrained_layers`.

    Raises:
        ValueError: nothing fits, or the checkpoint lacks a part of the backbone: another architecture's file.
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
    """The same shape, or a fully connected layer for a convolution that covers its whole input."""
    linear = tensor.dim() == 2 and target.dim() == 4 and len(tensor) == len(target)
    return tensor.shape == target.shape or (linear and tensor.numel() == target.numel())


def _target_name(name: str, target: dict[str, Tensor], layers: dict[str, str]) -> str:
    layer, _, kind = name.rpartition(".")
    if layer in layers:
        return f"{layers[layer]}.{kind}"
    within = f"backbone.{name}"
    return within if within in target else name
