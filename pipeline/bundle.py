"""A trained model on storage: weights (safetensors), and a card (JSON) with all that is needed to use them.

    BUNDLE/card.json                    written last; names the weights
    BUNDLE/weights-<sha256>.safetensors

A reader finds the old model or the new one, never half of each.
"""

import hashlib
import io
import posixpath
import re
from collections.abc import Mapping
from datetime import UTC, datetime

import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline import models, storage
from pipeline.card import CARD, Card, read_card
from pipeline.errors import UserError, one_line
from pipeline.models.weightless import weightless

WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")  # a path without one is the folder of a bundle
_WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")


def save_bundle(url: str, model: nn.Module | Mapping[str, Tensor], card: Card) -> Card:
    """Write a bundle, in place of the one that may be there.

    Args:
        url: The bundle's folder on any storage.
        model: The network that `card` describes, or its state dict.
        card: A card whose weights, hash and date are still to be filled in.

    Returns:
        The card as written.
    """
    tensors = model.state_dict() if isinstance(model, nn.Module) else model
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(state)
    digest = hashlib.sha256(data).hexdigest()
    card = card.model_copy(
        update={
            "weights": f"weights-{digest[:16]}.safetensors",
            "weights_sha256": digest,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    storage.write_bytes(storage.join(url, card.weights), data)
    storage.write_bytes(storage.join(url, CARD), card.model_dump_json(indent=2).encode())
    for file in storage.list_files(url):
        name = posixpath.basename(file.path)
        if _WEIGHTS.fullmatch(name) and name != card.weights:
            storage.remove(storage.join(url, name))
    return card


def load_bundle(url: str) -> tuple[nn.Module, Card]:
    """Load the network, in eval mode on the CPU, and its card.

    Raises:
        UserError: A part is missing, damaged, or of another version.
    """
    card = read_card(url)
    weights = _read_weights(url, card)
    try:
        with weightless():  # nothing is allocated, whatever sizes the card asks for
            model = models.configure(card.architecture, card.options).build(len(card.classes))
        dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        weights = {name: tensor.to(dtypes.get(name, tensor.dtype)) for name, tensor in weights.items()}
        model.load_state_dict(weights, assign=True)
    except (ValueError, RuntimeError, TypeError, OverflowError) as error:
        raise _misfit(url, error) from None
    return model.eval(), card


def read_checkpoint(url: str) -> dict[str, Tensor]:
    """Read the tensors of a bundle, or of a `.pth` or `.safetensors` file, without unpickling code.

    Raises:
        UserError: It cannot be read, or is not a state dict.
    """
    if not url.endswith(WEIGHT_SUFFIXES):
        return _read_weights(url, read_card(url))
    with storage.friendly_errors(url, "cannot read the weights"):
        data = storage.read_bytes(url)
    try:
        if url.endswith(".safetensors"):
            return safetensors.torch.load(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the bytes provoke
        raise UserError(f"weights {storage.redact(url)}: not a checkpoint of tensors ({one_line(error)})") from None
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"weights {storage.redact(url)}: expected a state dict of tensors")
    return content


def _read_weights(url: str, card: Card) -> dict[str, Tensor]:
    if not _WEIGHTS.fullmatch(card.weights):
        raise UserError(
            f"bundle {storage.redact(url)}: its {CARD} names {card.weights!r} as the weights; expected a file "
            "weights-<16 hexadecimal digits>.safetensors beside the card"
        )
    weights_url = storage.join(url, card.weights)
    with storage.friendly_errors(weights_url, "cannot read the weights"):
        data = storage.read_bytes(weights_url)
    if hashlib.sha256(data).hexdigest() != card.weights_sha256:
        raise UserError(f"bundle {storage.redact(url)}: {card.weights} is damaged: its SHA-256 is not the card's")
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise _misfit(url, error) from None


def _misfit(url: str, error: Exception) -> UserError:
    reason = one_line(error, limit=300)
    return UserError(f"bundle {storage.redact(url)} does not fit this version of segpipe: {reason}")
