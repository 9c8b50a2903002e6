"""Images with their classes: what there is to learn from, and training examples drawn from it. Imports no torch."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.data import datasets, images
from pipeline.data.annotations import read_annotations
from pipeline.data.datasets import SampleError
from pipeline.data.transforms import augment
from pipeline.errors import UserError
from pipeline.training.config import ClassifierConfig, LabelledImages
from pipeline.training.stream import Crops, draw_all, first_usable, mean_colour, permutation


class LabelledImage(NamedTuple):
    """An image (URL) and the names of the classes that it shows; `key` is its path below the root, without suffix."""

    key: str
    image: str
    labels: tuple[str, ...]


class Labelled(NamedTuple):
    """Images in the order of their keys, and whether they may show several classes or none."""

    images: list[LabelledImage]
    multi_label: bool


def read_labelled(split: LabelledImages, *, target: str, name: str) -> Labelled:
    """List the images of a split and their classes.

    Args:
        split: where they are.
        target: class of positive images.
        name: "train" or "val", for messages.

    Raises:
        UserError: nothing there, images without a class, or labels of none of the images.
    """
    if split.positive is not None and split.negative is not None:
        found = [
            LabelledImage(f"{side}/{key}", url, labels)
            for side, root, labels in (("positive", split.positive, (target,)), ("negative", split.negative, ()))
            for key, url in datasets.files_by_key(root).items()
        ]
        return Labelled(_only(found, split, name), True)
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
                f"--{name}.labels names a table of labels"
            )
        found = [LabelledImage(key, url, (key.split("/")[0],)) for key, url in urls.items()]
    found = _only(found, split, name)
    return Labelled(found, any(len(image.labels) != 1 for image in found))


def _only(found: list[LabelledImage], split: LabelledImages, name: str) -> list[LabelledImage]:
    """Those that the split's list names, or all."""
    if split.list is None:
        return sorted(found)
    wanted = datasets.read_list(split.list)
    by_key = {image.key: image for image in found}
    missing = [key for key in wanted if key not in by_key]
    if missing:
        raise UserError(f"{name}: {len(missing)} of {len(wanted)} listed images are not there, the first: {missing[0]}")
    return [by_key[key] for key in wanted]


def as_table(samples: Iterable[LabelledImage], names: tuple[str, ...]) -> pa.Table:
    """Samples as a table, which tasks of a node share without copying; `labels` are class indices."""
    index = {name: i for i, name in enumerate(names)}
    rows = list(samples)
    columns = {
        "key": [s.key for s in rows],
        "image": [s.image for s in rows],
        "labels": pa.array([[index[label] for label in s.labels] for s in rows], pa.list_(pa.int32())),
    }
    return pa.table(columns)


def read_image(url: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Fetch and decode an image, turned upright, at (height, width).

    Raises:
        SampleError: it is missing, unreadable or damaged.
    """
    try:
        return images.resize(images.decode_image(storage.read_bytes(url)).pixels, size)
    except images.ImageError as error:
        raise SampleError(f"{url}: {error}") from None
    except OSError as error:
        raise SampleError(f"{url}: {storage.explain(error)}") from None


def encode_labels(labels: list[int], *, classes: int, multi_label: bool) -> NDArray:
    """What the loss takes of an image: int64 [], its class; or uint8 [classes] of ones and zeros."""
    if not multi_label:
        return np.array(labels[0], np.int64)
    present = np.zeros(classes, np.uint8)
    present[labels] = 1
    return present


class DrawImages:
    """Maps positions of an epoch to augmented images and their classes; see `stream.DrawCrops`.

    Args:
        config: of the run.
        classes: their number.
        multi_label: see `encode_labels`.
    """

    def __init__(self, config: ClassifierConfig, *, classes: int, multi_label: bool):
        self.augmentation = config.augmentation
        self.input_size = config.input_size
        self.fill = mean_colour(config.preprocessing)
        self.seed = config.seed
        self.classes = classes
        self.multi_label = multi_label

    def __call__(self, table: pa.Table, epoch: int, positions: range) -> Crops:
        """Draw the images at some positions.

        Raises:
            UserError: no image can be used.
        """
        return draw_all(lambda position, skipped: self.draw(table, epoch, position, skipped), table, positions)

    def draw(
        self, table: pa.Table, epoch: int, position: int, skipped: dict[str, None]
    ) -> tuple[NDArray[np.uint8], NDArray, str]:
        """One augmented image, its classes and its key; lines of images that cannot be used go to `skipped`."""
        passes, place = divmod(position, table.num_rows)
        order = permutation(self.seed, epoch, passes, table.num_rows)

        def read(index: int) -> tuple[NDArray[np.uint8], int]:
            return read_image(table["image"][index].as_py(), self.input_size), index

        pixels, index = first_usable(order, place, read, skipped)
        crop, _ = augment(
            pixels,
            np.zeros(pixels.shape[:2], np.int32),  # there is no label map
            settings=self.augmentation,
            ignore_index=255,
            fill=self.fill,
            rng=np.random.default_rng([self.seed, epoch, position]),
        )
        labels = encode_labels(table["labels"][index].as_py(), classes=self.classes, multi_label=self.multi_label)
        return crop, labels, table["key"][index].as_py()
