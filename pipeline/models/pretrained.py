"""Published torchvision weights into our backbones and networks. torch only; see `bundle` for storage."""

from typing import NamedTuple

from torch import Tensor, nn

from pipeline.models.fcn import FCN

# VGG16's first two fully connected layers, as torchvision names them, and the convolutions they become.
VGG_CLASSIFIER = {"classifier.0": "fc6", "classifier.3": "fc7"}


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
    """Load what fits of a torchvision state dict: of a classifier (VGG16, ResNet) into the backbone, of a
    segmentation network (deeplabv3_resnet50, …) into the whole.

    The classifier's fully connected layers of VGG16 become FCN's fc6 and fc7 (same weights, reshaped).

    Raises:
        ValueError: nothing fits, or the checkpoint lacks a part of the backbone: another architecture's file.
    """
    target = model.state_dict()
    renamed = {_target_name(name, model): tensor for name, tensor in checkpoint.items()}
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


def _target_name(name: str, model: nn.Module) -> str:
    if name.startswith(("backbone.", "aux_classifier.")):
        return name
    layer, _, kind = name.rpartition(".")
    if isinstance(model, FCN) and layer in VGG_CLASSIFIER:
        return f"{VGG_CLASSIFIER[layer]}.{kind}"
    if name.startswith(("classifier.", "fc.")):
        return name
    return f"backbone.{name}"
