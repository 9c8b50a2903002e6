"""A sheet of training crops as a network would see them. Imports no torch."""

from typing import Any

import yaml

from pipeline import storage
from pipeline.data.classes import Classes
from pipeline.data.datasets import Sample
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.transforms import Augmentation
from pipeline.errors import UserError
from pipeline.report.mask_sheet import Picture, draw_sheet
from pipeline.training.stream import DrawCrops, as_table

CROPS = 12


def draw_preview(samples: list[Sample], classes: Classes, *, augmentation: Augmentation, seed: int) -> bytes:
    """PNG of the first crops of a run with these settings.

    Raises:
        UserError: no sample can be used.
    """
    if not samples:
        raise UserError("no image has a label map; there is nothing to draw")
    draw = DrawCrops(augmentation=augmentation, classes=classes, preprocessing=Preprocessing(), seed=seed)
    crops = draw(as_table(samples), 0, range(CROPS))
    rows = zip(crops.keys, crops.pixels, crops.labels, strict=True)
    return draw_sheet([Picture(key, pixels, labels, None) for key, pixels, labels in rows], classes, last="labels")


def from_recipe(url: str) -> tuple[Augmentation, int]:
    """Augmentation and seed of a training recipe.

    Raises:
        UserError: it is no recipe.
    """
    try:
        content: dict[str, Any] = yaml.safe_load(storage.read_text(url, what="recipe"))
        return Augmentation(**content.get("augmentation", {})), int(content.get("seed", 0))
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"recipe {storage.redact(url)}: its augmentation cannot be read ({reason})") from None
