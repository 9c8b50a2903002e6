"""A sheet of training crops, as a network would get them. Imports no PyTorch."""

from pipeline import cli, storage
from pipeline.data.classes import Classes
from pipeline.data.datasets import Sample
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.transforms.config import Augmentation
from pipeline.errors import UserError, one_line
from pipeline.report.mask_sheet import MaskPicture, draw_mask_sheet
from pipeline.training.segmentation.crops import DrawCrops, sample_table

CROPS = 12


def draw_preview(samples: list[Sample], classes: Classes, *, augmentation: Augmentation, seed: int) -> bytes:
    """Draw the first crops of a run with these settings, as PNG.

    Raises:
        UserError: No sample can be used.
    """
    if not samples:
        raise UserError("no image has a label map; there is nothing to draw")
    draw = DrawCrops(augmentation=augmentation, classes=classes, preprocessing=Preprocessing(), seed=seed)
    crops = draw(sample_table(samples), 0, range(CROPS))
    rows = zip(crops.keys, crops.pixels, crops.labels, strict=True)
    pictures = [MaskPicture(key, pixels, labels, None) for key, pixels, labels in rows]
    return draw_mask_sheet(pictures, classes, last="labels")


def read_recipe(url: str) -> tuple[Augmentation, int]:
    """Read the augmentation and the seed of a training recipe.

    Raises:
        UserError: It is not a recipe.
    """
    content = cli.read_options(url, noun="recipe")
    try:
        return Augmentation(**content.get("augmentation", {})), int(content.get("seed", 0))
    except (TypeError, ValueError) as error:
        problem = one_line(error)
        raise UserError(f"recipe {storage.redact(url)}: its augmentation cannot be read ({problem})") from None
