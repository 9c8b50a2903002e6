"""Exports of bulk runs to the formats of other tools. A format is a module of this folder and a line of `FORMATS`.

A module has a class `Writer`; see `pipeline.export.writer`. It imports nothing heavy, because `--help` reads it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.export.writer import FormatWriter


class Format(NamedTuple):
    """A format that `segpipe export` writes.

    Attributes:
        module: Module of this folder.
        summary: What is written, as a phrase.
        masks: Whether it holds masks.
        boxes: Whether it holds the boxes of a detection run.
        images: Whether the images can be copied into it.
    """

    module: str
    summary: str
    masks: bool = True
    boxes: bool = True
    images: bool = False


FORMATS = {
    "png": Format("png", "indexed PNG masks with the class palette", boxes=False),
    "cityscapes": Format("cityscapes", "PNG masks of Cityscapes' label ids", boxes=False),
    "coco": Format("coco", "COCO JSON with RLE masks, or with boxes"),
    "coco-polygons": Format("coco_polygons", "COCO JSON with a polygon for each connected region", boxes=False),
    "yolo": Format("yolo", "YOLO text files with polygons, or with boxes", images=True),
    "label-studio": Format("label_studio", "Label Studio tasks with brush masks, or with rectangles"),
    "cvat": Format("cvat", "CVAT for images 1.1 (XML) with masks, or with boxes"),
    "fiftyone": Format("fiftyone", "FiftyOne's image segmentation or detection folder", images=True),
    "huggingface": Format("huggingface", "Parquet folder for Hugging Face's load_dataset", images=True),
}


def load(name: str) -> "type[FormatWriter]":
    """Import the writer of a format."""
    return import_module(f"{__name__}.{FORMATS[name].module}").Writer
