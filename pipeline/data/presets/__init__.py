"""Presets of public data sets: where a data set keeps images, label maps and splits, and the file of its classes.

`--dataset voc --root URL` sets the options for images, label maps and classes that are not given otherwise. The class
files beside this module have names and values from the data sets' own documentation.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field

from pipeline import storage
from pipeline.errors import UserError
from pipeline.storage import Url

DatasetName = Literal["voc", "cityscapes", "ade20k", "camvid", "coco-stuff"]
Split = Literal["train", "val", "test"]


class SplitPlaces(NamedTuple):
    """Where a split is below the root; the list is empty if the folders hold this split only."""

    images: str
    labels: str
    list: str = ""


class Preset(NamedTuple):
    """The layout of a data set.

    Attributes:
        splits: Where each split is.
        image_suffix: Ending of the images' names that those of label maps lack.
        label_suffix: Ending of the names of label maps.
    """

    splits: dict[str, SplitPlaces]
    image_suffix: str = ""
    label_suffix: str = ""


def _voc(split: str) -> SplitPlaces:
    return SplitPlaces("JPEGImages", "SegmentationClass", f"ImageSets/Segmentation/{split}.txt")


PRESETS: dict[str, Preset] = {
    "voc": Preset({split: _voc(split) for split in ("train", "val")}),
    "cityscapes": Preset(
        {split: SplitPlaces(f"leftImg8bit/{split}", f"gtFine/{split}") for split in ("train", "val", "test")},
        image_suffix="_leftImg8bit",
        label_suffix="_gtFine_labelIds",
    ),
    "ade20k": Preset(
        {
            "train": SplitPlaces("images/training", "annotations/training"),
            "val": SplitPlaces("images/validation", "annotations/validation"),
        }
    ),
    "camvid": Preset({split: SplitPlaces(split, f"{split}annot") for split in ("train", "val", "test")}),
    "coco-stuff": Preset(
        {split: SplitPlaces(f"images/{split}2017", f"annotations/{split}2017") for split in ("train", "val")}
    ),
}


class DatasetOptions(BaseModel):
    """Options that name a public data set."""

    dataset: DatasetName | None = Field(
        default=None,
        description="public data set below --root, in the layout of its own archive, which sets the options for "
        "images, label maps and classes: docs/exchange.md",
    )
    root: Url | None = Field(default=None, description="folder of the data set that --dataset names")


class DatasetSplit(DatasetOptions):
    """Options that name a split of a public data set."""

    split: Split = Field(default="val", description="part of the data set that --dataset names")


def class_file(dataset: str) -> str:
    """Return the path of a data set's class file."""
    return str(Path(__file__).parent / f"{dataset}.yaml")


def split_options(dataset: str, root: str, split: str) -> dict[str, Any]:
    """Return the options of a split: images, labels, and list, label_suffix and image_suffix if it has them.

    Raises:
        ValueError: The data set has no such split.
    """
    preset = PRESETS[dataset]
    if split not in preset.splits:
        raise ValueError(f"--dataset {dataset} has no split '{split}'; it has {', '.join(preset.splits)}")
    places = preset.splits[split]
    options: dict[str, Any] = {name: storage.join(root, path) for name, path in places._asdict().items() if path}
    endings = {"image_suffix": preset.image_suffix, "label_suffix": preset.label_suffix}
    return options | {name: ending for name, ending in endings.items() if ending}


def named_dataset(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return data set and root of options that are still to be checked; None if no known data set is named.

    Raises:
        ValueError: One of them is given without the other.
    """
    dataset, root = values.get("dataset"), values.get("root")
    if (dataset is None) != (root is None):
        raise ValueError("--dataset and --root belong together: --dataset voc --root /data/VOCdevkit/VOC2012")
    if dataset is None or root is None or dataset not in PRESETS:
        return None
    return dataset, storage.absolute(str(root))


def with_dataset(values: Any, *, takes_list: bool = True) -> Any:
    """Return options with those that are not given, but that the named split of a data set has.

    Args:
        values: Options that are still to be checked.
        takes_list: Whether the images can be chosen by a list.

    Raises:
        ValueError: There is no such split, or it is a list where none is taken.
    """
    named = named_dataset(values)
    if named is None:
        return values
    dataset, root = named
    options = split_options(dataset, root, values.get("split", "val"))
    listed = options.get("list")
    if not takes_list:
        options.pop("list", None)
        if listed and "images" not in values:
            raise ValueError(
                f"--dataset {dataset} has its splits in lists of names; write the paths of the images of "
                f"{storage.redact(listed)} into a text file, and give it as --images"
            )
    return options | {"classes": class_file(dataset)} | values


def require_places(dataset: str | None, options: Mapping[str, Any], *, split: str) -> None:
    """Check that the folders and the list of a preset exist.

    Args:
        dataset: Name of the data set; None if none is named.
        options: Options of a split: images, labels and list are looked at.
        split: Name of the split.

    Raises:
        UserError: One does not exist; the message says what the preset expected there.
    """
    if dataset is None:
        return
    nouns = {"images": "the images", "labels": "the label maps", "list": "the list"}
    for name, noun in nouns.items():
        url = options.get(name)
        if url is None or "*" in url:
            continue
        with storage.friendly_errors(url, "cannot look for"):
            is_there = storage.exists(url)
        if not is_there:
            raise UserError(
                f"--dataset {dataset} expects {noun} of the split '{split}' in {storage.redact(url)}, which does not "
                f"exist; is --root the folder that holds {_first_part(dataset, split, name)}?"
            )


def _first_part(dataset: str, split: str, name: str) -> str:
    return getattr(PRESETS[dataset].splits[split], name).partition("/")[0]
