"""Training crops of images with label maps. Imports no PyTorch."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.classes import Classes
from pipeline.data.datasets import BadLabelError, Sample, SampleError, read_sample
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.transforms.augment import augment
from pipeline.data.transforms.config import Augmentation
from pipeline.data.transforms.mixing import copy_paste, cutmix
from pipeline.errors import UserError
from pipeline.training.examples import Example, Examples, draw_all, first_usable, mean_colour, permutation


def sample_table(samples: list[Sample]) -> pa.Table:
    """Return samples as a table, which the tasks of a node share without copying."""
    return pa.table({name: [getattr(s, name) for s in samples] for name in Sample._fields})


class DrawCrops:
    """Draws augmented crops; see `examples.Draw`.

    Args:
        augmentation: How crops are drawn.
        classes: Classes of the data set.
        preprocessing: Preprocessing of the network, whose mean colour pads small images.
        seed: Seed of all random numbers.
    """

    def __init__(self, *, augmentation: Augmentation, classes: Classes, preprocessing: Preprocessing, seed: int):
        self.augmentation = augmentation
        self.classes = classes
        self.fill = mean_colour(preprocessing)
        self.seed = seed
        self.label_dtype = label_dtype(classes)

    def __call__(self, table: pa.Table, epoch: int, positions: range) -> Examples:
        """Draw the crops at some positions of an epoch.

        Raises:
            UserError: A label map contradicts its image or the class file, or no image can be used.
        """
        return draw_all(lambda position, skipped: self._draw(table, epoch, position, skipped), table, positions)

    def _draw(self, table: pa.Table, epoch: int, position: int, skipped: dict[str, None]) -> Example:
        settings = self.augmentation
        rng = np.random.default_rng([self.seed, epoch, position])
        passes, place = divmod(position, table.num_rows)
        order = permutation(self.seed, epoch, passes, table.num_rows)
        pixels, labels, key = self._crop(table, order, place, rng, skipped)
        for probability, mix in ((settings.cutmix, cutmix), (settings.copy_paste, self._paste)):
            if rng.random() < probability:
                second = self._crop(table, order, int(rng.integers(table.num_rows)), rng, skipped)
                pixels, labels = mix((pixels, labels), second[:2], rng)
        return pixels, labels.astype(self.label_dtype), key

    def _crop(
        self, table: pa.Table, order: NDArray[np.int64], place: int, rng: np.random.Generator, skipped: dict[str, None]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32], str]:
        ignore_index = self.classes.ignore_index

        def read(index: int) -> tuple[NDArray[np.uint8], NDArray[np.int32], str]:
            sample = Sample(*(table[name][index].as_py() for name in Sample._fields))
            try:
                pixels, labels = read_sample(sample, self.classes)
            except BadLabelError as error:
                raise UserError(f"{error}. Check the data set with segpipe validate") from None
            if (labels == ignore_index).all():
                raise SampleError(f"{sample.label}: no pixel is labelled")
            return pixels, labels, sample.key

        pixels, labels, key = first_usable(order, place, read, skipped)
        crop = augment(pixels, labels, settings=self.augmentation, ignore_index=ignore_index, fill=self.fill, rng=rng)
        return *crop, key

    def _paste(self, crop: tuple[NDArray, NDArray], source: tuple[NDArray, NDArray], rng: np.random.Generator) -> Any:
        classes = self.augmentation.paste_classes
        return copy_paste(crop, source, classes=classes, ignore_index=self.classes.ignore_index, rng=rng)


def label_dtype(classes: Classes) -> np.dtype:
    """Return the smallest dtype for the class indices and the ignore index: labels cross the object store."""
    fits = 0 <= classes.ignore_index <= 255 and len(classes) <= 256
    return np.dtype(np.uint8 if fits else np.int32)
