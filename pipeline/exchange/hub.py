"""Bundles in the layout of the Hugging Face Hub: card, weights, and a model card, README.md, with YAML front matter.

A bundle is read from the Hub without this module: `hf://OWNER/NAME` is an fsspec URL. What is pushed leaves the
organisation, so the configuration of the training run, which names its storage, stays behind.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from pipeline import storage
from pipeline.card import CARD, Card, read_card
from pipeline.errors import UserError, one_line

README = "README.md"


def write_folder(bundle: str, folder: str, *, repository: str | None = None) -> Card:
    """Write card, weights and README.md of a bundle into a folder.

    Args:
        bundle: URL of the bundle.
        folder: URL of the folder.
        repository: OWNER/NAME under which the README names the model; None if it is not known yet.

    Returns:
        The card as written: without the configuration of the training run.

    Raises:
        UserError: There is no bundle, or the folder is the bundle's own.
    """
    card = published(read_card(bundle))
    if storage.absolute(folder) == storage.absolute(bundle):
        raise UserError("--folder is the bundle itself, whose card keeps its training run; name another folder")
    weights_url = storage.join(bundle, card.weights)
    with storage.friendly_errors(weights_url, "cannot read the weights"):
        weights = storage.read_bytes(weights_url)
    with storage.friendly_errors(folder, "cannot write to"):
        storage.write_bytes(storage.join(folder, card.weights), weights)
        storage.write_bytes(storage.join(folder, README), model_card(card, repository=repository).encode())
        storage.write_bytes(storage.join(folder, CARD), card.model_dump_json(indent=2).encode())
    return card


def push(bundle: str, repository: str, *, private: bool = False) -> str:
    """Push a bundle to the Hub, with the token of `hf auth login` or of the environment variable HF_TOKEN.

    Args:
        bundle: URL of the bundle.
        repository: OWNER/NAME; it is created if it does not exist.
        private: Make it private if it is created.

    Returns:
        URL of the bundle on the Hub.

    Raises:
        UserError: The package is missing, there is no bundle, or the Hub refuses it.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError("--hub needs the package huggingface_hub: pip install 'segpipe[hub]'") from None
    with tempfile.TemporaryDirectory(prefix="segpipe-hub-") as folder:
        card = write_folder(bundle, folder, repository=repository)
        try:
            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository,
                folder_path=Path(folder),
                commit_message=f"segpipe: {card.architecture}, {card.weights_sha256[:16]}",
                delete_patterns="weights-*.safetensors",  # those of the bundle before this one
            )
        except Exception as error:  # besides its own classes, it raises those of its HTTP client
            raise UserError(f"cannot push to {repository}: {one_line(error)}; is HF_TOKEN set?") from None
    return f"hf://{repository}"


def published(card: Card) -> Card:
    """Return a card without the configuration of the training run, which names the places of its data."""
    return card.model_copy(update={"training": _without_configurations(card.training)})


def _without_configurations(training: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_configurations(value) if isinstance(value, dict) else value
        for name, value in training.items()
        if name != "config"
    }


def model_card(card: Card, *, repository: str | None = None) -> str:
    """Return the README.md of a model: YAML front matter that the Hub reads, and how to use the model."""
    kind, task = _kind(card)
    front = {
        "library_name": "segpipe",
        "pipeline_tag": task,
        "tags": ["segpipe", task, card.architecture],
    }
    name = repository or "OWNER/NAME"
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        "",
        f"# {card.architecture}",
        "",
        f"A {card.architecture} with {len(card.classes)} classes, trained with segpipe {card.code_version}, "
        f"{card.created}.",
        "",
        "```python",
        f"from pipeline import {kind}  # pip install 'segpipe[hub]'",
        "",
        f'model = {kind}.from_bundle("hf://{name}")',
        'prediction = model("photo.jpg")',
        "```",
        "",
        "| | |",
        "|---|---|",
        *(f"| {title} | {_cell(text)} |" for title, text in _facts(card).items()),
        "",
    ]
    return "\n".join(lines)


def _kind(card: Card) -> tuple[str, str]:
    """Return the class of `pipeline` that runs a model, and the Hub's name of its task."""
    if card.detector is not None:
        return "Detector", "object-detection"
    return (
        ("Classifier", "image-classification") if card.classifier is not None else ("Segmenter", "image-segmentation")
    )


def _facts(card: Card) -> dict[str, str]:
    scores = card.training.get("record", {})
    numbers = {name: value for name, value in scores.items() if isinstance(value, int | float) and name != "best"}
    facts = {
        "classes": ", ".join(card.classes.names),
        "options": json.dumps(card.options),
        "input": f"RGB, (pixel / 255 - {list(card.preprocessing.mean)}) / {list(card.preprocessing.std)}",
        "weights": f"{card.weights}, SHA-256 {card.weights_sha256}",
    }
    if numbers:
        facts["last epoch"] = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    return facts


def _cell(text: str) -> str:
    """Return a text as the cell of a Markdown table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
