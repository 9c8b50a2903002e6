"""The card of a model bundle: all that one must know to use the model, except its weights. Imports no PyTorch."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import __version__, storage
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import ClassifierInput, DetectorInput, Preprocessing
from pipeline.errors import UserError, first_problem

CARD = "card.json"
TRAINING = "training.json"  # options of the training run that writes the bundle; there from the start of the run


class Card(BaseModel):
    """Everything about a model except its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str = Field(description="name of the architecture")
    options: dict[str, Any] = Field(description="options of the architecture")
    classes: Classes = Field(description="classes that the model predicts")
    preprocessing: Preprocessing = Field(default=Preprocessing(), description="how pixels become the network's input")
    classifier: ClassifierInput | None = Field(
        default=None, description="input of a classifier; absent for other models"
    )
    detector: DetectorInput | None = Field(default=None, description="input of a detector; absent for other models")
    weights: str = Field(default="", description="file name of the weights, beside the card")
    weights_sha256: str = Field(default="", description="SHA-256 of the weights file")
    training: dict[str, Any] = Field(default={}, description="configuration, epoch and scores of the training run")
    created: str = Field(default="", description="time at which the bundle was written (ISO 8601, UTC)")
    code_version: str = Field(default=__version__, description="version of segpipe that wrote the bundle")

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides a prediction: weights, architecture, preprocessing and number of classes."""
        parts = [self.weights_sha256, self.architecture, self.options, self.preprocessing.model_dump()]
        parts += [given.model_dump() for given in (self.classifier, self.detector) if given]
        return hashlib.sha256(json.dumps([*parts, len(self.classes)], sort_keys=True).encode()).hexdigest()


def read_card(url: str) -> Card:
    """Read the card of a bundle.

    Raises:
        UserError: There is no bundle, or its card is not valid.
    """
    place = storage.join(url, CARD)
    with storage.friendly_errors(place, "cannot read the bundle's card"):
        try:
            data = storage.read_bytes(place)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(_why_no_bundle(url)) from None
    try:
        return Card.model_validate_json(data)
    except ValidationError as error:
        raise UserError(f"bundle {storage.redact(url)}: its {CARD} is not valid ({first_problem(error)})") from None


def _why_no_bundle(url: str) -> str:
    """Return why a place without a card is no bundle, in one line."""
    place = storage.redact(url)
    if storage.exists(storage.join(url, TRAINING)):
        return f"{place} has no bundle yet: the training there has not finished an epoch; its command goes on with it"
    problem = "is not a bundle" if storage.exists(url) else "does not exist"
    return f"{place} {problem}; a bundle is the output folder of segpipe train, train-classifier or train-detector"
