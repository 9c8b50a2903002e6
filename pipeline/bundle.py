"""A trained model on storage: weights (safetensors) and a card (JSON) that says all that is needed to use it.

    BUNDLE/card.json                    written last; names the weights
    BUNDLE/weights-<sha256>.safetensors

A reader finds the old model or the new one, never half of each.
"""

import hashlib
import io
import json
import posixpath
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from pipeline import __version__, models, storage
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import ClassifierInput, Preprocessing
from pipeline.errors import UserError

CARD = "card.json"
FILES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")  # of weights, as against the folder of a bundle
WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")


class Card(BaseModel):
    """Everything about a model but its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str
    options: dict[str, Any]
    classes: Classes
    preprocessing: Preprocessing = Preprocessing()
    classifier: ClassifierInput | None = Field(default=None, description="of a classifier, of which it makes one")
    weights: str = Field(default="", description="file name of the weights, beside the card")
    weights_sha256: str = ""
    training: dict[str, Any] = Field(default={}, description="configuration, epoch and scores it comes from")
    created: str = ""
    code_version: str = __version__

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides a prediction: weights, architecture, preprocessing, number of classes."""
        parts = [self.weights_sha256, self.architecture, self.options, self.preprocessing.model_dump()]
        parts += [self.classifier.model_dump()] if self.classifier else []
        return hashlib.sha256(json.dumps([*parts, len(self.classes)], sort_keys=True).encode()).hexdigest()


def save_bundle(url: str, model: nn.Module | Mapping[str, Tensor], card: Card) -> Card:
    """Write a bundle, replacing the one that is there.

    Args:
        url: the bundle's folder on any storage.
        model: the network that `card` describes, or its state dict.
        card: without weights, hash and date, which are filled in.

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
        if WEIGHTS.fullmatch(name) and name != card.weights:
            storage.remove(storage.join(url, name))
    return card


def read_card(url: str) -> Card:
    """The card of a bundle.

    Raises:
        UserError: there is no bundle, or its card is not valid.
    """
    place = storage.join(url, CARD)
    try:
        return Card.model_validate_json(storage.read_text(place, what="bundle's card"))
    except ValidationError as error:
        first = error.errors()[0]
        problem = ": ".join([*filter(None, [".".join(map(str, first["loc"]))]), first["msg"]])
        raise UserError(f"bundle {storage.redact(url)}: its {CARD} is not valid ({problem})") from None


def load_bundle(url: str) -> tuple[nn.Module, Card]:
    """The network in eval mode, on the CPU, and its card.

    Raises:
        UserError: a part is missing, damaged, or of another version.
    """
    card = read_card(url)
    weights = _read_weights(url, card)
    try:
        model = models.configure(card.architecture, card.options).build(len(card.classes))
        model.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        raise _misfit(url, error) from None
    return model.eval(), card


def _read_weights(url: str, card: Card) -> dict[str, Tensor]:
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
    reason = " ".join(str(error).split())[:300]
    return UserError(f"bundle {storage.redact(url)} does not fit this version of segpipe: {reason}")


def read_checkpoint(url: str) -> dict[str, Tensor]:
    """The tensors of a bundle, or of a `.pth` or `.safetensors` file such as torchvision's, without unpickling code.

    Raises:
        UserError: it cannot be read, or is no state dict.
    """
    if not url.endswith(FILES):
        return _read_weights(url, read_card(url))
    with storage.friendly_errors(url, "cannot read the weights"):
        data = storage.read_bytes(url)
    try:
        if url.endswith(".safetensors"):
            return safetensors.torch.load(data)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the bytes provoke
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"weights {storage.redact(url)}: not a checkpoint of tensors ({reason})") from None
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"weights {storage.redact(url)}: expected a state dict of tensors")
    return content
