"""Images with their classes, as a data set lists them. Imports no PyTorch."""

from typing import NamedTuple

from pipeline import storage
from pipeline.data import datasets
from pipeline.data.annotations import read_annotations
from pipeline.errors import UserError
from pipeline.training.classification.config import LabelledImages


class LabelledImage(NamedTuple):
    """An image and the names of the classes that it shows.

    Attributes:
        key: Path of the image below the root, without suffix.
        image: URL of the image.
        labels: Names of the classes.
    """

    key: str
    image: str
    labels: tuple[str, ...]


class LabelledSplit(NamedTuple):
    """Images in the order of their keys, and whether an image may show several classes or none."""

    images: list[LabelledImage]
    multi_label: bool


def read_labelled(split: LabelledImages, *, target: str, name: str, flag: str | None = None) -> LabelledSplit:
    """List the images of a split and their classes.

    Args:
        split: Where the images and their classes are.
        target: Class of positive images.
        name: "train" or "val", for messages.
        flag: Option that names a table of labels; by default --NAME.labels.

    Raises:
        UserError: There are no images, an image has no class, or the labels name none of the images.
    """
    if split.positive is not None and split.negative is not None:
        found = [
            LabelledImage(f"{side}/{key}", url, labels)
            for side, root, labels in (("positive", split.positive, (target,)), ("negative", split.negative, ()))
            for key, url in datasets.files_by_key(root).items()
        ]
        return LabelledSplit(_listed(found, split, name), True)
    assert split.images is not None
    urls = datasets.files_by_key(split.images)
    if split.labels is not None:
        annotations = read_annotations(split.labels)
        known = {key: annotations.find(key) for key in urls}
        found = [LabelledImage(key, urls[key], a.labels) for key, a in known.items() if a is not None]
        if not found:
            raise UserError(
                f"{name}: {storage.redact(split.labels)} names none of the images; the first image is "
                f"'{min(urls)}', the first named '{min(annotations.by_key, default='–')}'"
            )
        if len(found) < len(urls):
            print(f"{name}: {len(urls) - len(found)} images have no label and are left out")
    else:
        loose = [key for key in urls if "/" not in key]
        if loose:
            raise UserError(
                f"{name}: the image '{loose[0]}' lies in no folder of a class below {storage.redact(split.images)}; "
                f"{flag or f'--{name}.labels'} names a table of labels"
            )
        found = [LabelledImage(key, url, (key.split("/")[0],)) for key, url in urls.items()]
    found = _listed(found, split, name)
    return LabelledSplit(found, any(len(image.labels) != 1 for image in found))


def _listed(found: list[LabelledImage], split: LabelledImages, name: str) -> list[LabelledImage]:
    """Return the images that the split's list names, or all if it has none."""
    if split.list is None:
        return sorted(found)
    wanted = datasets.read_list(split.list)
    by_key = {image.key: image for image in found}
    missing = [key for key in wanted if key not in by_key]
    if missing:
        raise UserError(f"{name}: {len(missing)} of {len(wanted)} listed images are not there, the first: {missing[0]}")
    return [by_key[key] for key in wanted]
