"""Training examples of a classifier: augmented images and their classes. Imports no PyTorch."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data import images
from pipeline.data.datasets import read_image
from pipeline.data.transforms.augment import augment
from pipeline.training.classification.config import TrainClassifierConfig
from pipeline.training.classification.labelled_images import LabelledImage
from pipeline.training.examples import Example, Examples, draw_all, first_usable, mean_colour, permutation


def labelled_table(samples: Iterable[LabelledImage], names: tuple[str, ...]) -> pa.Table:
    """Return samples as a table, which the tasks of a node share without copying; `labels` are class indices."""
    index = {name: i for i, name in enumerate(names)}
    rows = list(samples)
    columns = {
        "key": [s.key for s in rows],
        "image": [s.image for s in rows],
        "labels": pa.array([[index[label] for label in s.labels] for s in rows], pa.list_(pa.int32())),
    }
    return pa.table(columns)


def read_resized(url: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Fetch an image and decode it upright, at (height, width).

    Raises:
        SampleError: It is missing, unreadable or damaged.
    """
    return images.resize(read_image(url).pixels, size)


def encode_labels(labels: list[int], *, num_classes: int, multi_label: bool) -> NDArray:
    """Return the labels of an image for the loss: int64 [], its class; or uint8 [classes] of ones and zeros."""
    if not multi_label:
        return np.array(labels[0], np.int64)
    present = np.zeros(num_classes, np.uint8)
    present[labels] = 1
    return present


class DrawImages:
    """Draws augmented images; see `training.examples.Draw`.

    Args:
        config: Configuration of the run.
        num_classes: Number of classes.
        multi_label: Whether an image may show several classes or none.
    """

    def __init__(self, config: TrainClassifierConfig, *, num_classes: int, multi_label: bool):
        self.augmentation = config.augmentation
        self.input_size = config.input_size
        self.fill = mean_colour(config.preprocessing)
        self.seed = config.seed
        self.num_classes = num_classes
        self.multi_label = multi_label

    def __call__(self, table: pa.Table, epoch: int, positions: range) -> Examples:
        """Draw the images at some positions of an epoch.

        Raises:
            UserError: No image can be used.
        """
        return draw_all(lambda position, skipped: self._draw(table, epoch, position, skipped), table, positions)

    def _draw(self, table: pa.Table, epoch: int, position: int, skipped: dict[str, None]) -> Example:
        passes, place = divmod(position, table.num_rows)
        order = permutation(self.seed, epoch, passes, table.num_rows)

        def read(index: int) -> tuple[NDArray[np.uint8], int]:
            return read_resized(table["image"][index].as_py(), self.input_size), index

        pixels, index = first_usable(order, place, read, skipped)
        crop, _ = augment(
            pixels,
            np.zeros(pixels.shape[:2], np.int32),  # there is no label map
            settings=self.augmentation,
            ignore_index=255,
            fill=self.fill,
            rng=np.random.default_rng([self.seed, epoch, position]),
        )
        labels = table["labels"][index].as_py()
        encoded = encode_labels(labels, num_classes=self.num_classes, multi_label=self.multi_label)
        return crop, encoded, table["key"][index].as_py()
