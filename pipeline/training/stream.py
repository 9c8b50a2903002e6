"""Training crops, drawn by CPU tasks of the whole cluster. Imports no torch: each task's process would take seconds.

The crop at a position of an epoch depends on (seed, epoch, position) alone: not on which task draws it or when, nor on
the number of workers. A step takes the next `batch_size` positions, and each worker its part of them.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from pipeline import storage
from pipeline.data.classes import Classes
from pipeline.data.datasets import BadLabelError, Sample, SampleError, read_sample
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.transforms import Augmentation, augment, copy_paste, cutmix
from pipeline.errors import UserError

REMOTE_THREADS = 8  # fetches at a time in a task: remote storage answers late
LOCAL_THREADS = 2  # of local files; more of them only contend, and a crop costs a third more CPU


class Crops(NamedTuple):
    """Consecutive crops of one worker.

    Attributes:
        pixels: uint8 [crops, height, width, 3].
        labels: the smallest unsigned type that holds them, or int32, [crops, height, width].
        keys: of the images that they show.
        skipped: a line for each image that could not be used.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray
    keys: list[str]
    skipped: list[str]


def as_table(samples: list[Sample]) -> pa.Table:
    """Samples as a table, which tasks of a node share without copying."""
    return pa.table({name: [getattr(s, name) for s in samples] for name in Sample._fields})


def part_of_batch(step: int, batch_size: int, rank: int, world: int) -> range:
    """The positions in the epoch that a worker has in a step; sizes differ by at most one."""
    start, size = step * batch_size, batch_size
    return range(start + size * rank // world, start + size * (rank + 1) // world)


class DrawCrops:
    """Maps positions of an epoch to crops.

    Args:
        augmentation: how crops are drawn.
        classes: of the data set.
        preprocessing: the network's, whose mean colour pads small images.
        seed: of all chance.
    """

    def __init__(self, *, augmentation: Augmentation, classes: Classes, preprocessing: Preprocessing, seed: int):
        self.augmentation = augmentation
        self.classes = classes
        self.fill = mean_colour(preprocessing)
        self.seed = seed
        self.label_dtype = label_dtype(classes)

    def __call__(self, table: pa.Table, epoch: int, positions: range) -> Crops:
        """Draw the crops at some positions.

        Raises:
            UserError: a label map contradicts its image or the class file, or no image can be used.
        """
        return draw_all(lambda position, skipped: self.draw(table, epoch, position, skipped), table, positions)

    def draw(
        self, table: pa.Table, epoch: int, position: int, skipped: dict[str, None]
    ) -> tuple[NDArray[np.uint8], NDArray, str]:
        """One crop and the key of its image; lines of images that cannot be used are added to `skipped`."""
        settings = self.augmentation
        rng = np.random.default_rng([self.seed, epoch, position])
        passes, place = divmod(position, table.num_rows)
        order = permutation(self.seed, epoch, passes, table.num_rows)
        pixels, labels, key = self._crop(table, order, place, rng, skipped)
        for probability, mix in ((settings.cutmix, cutmix), (settings.copy_paste, self._paste)):
            if rng.random() < probability:
                other = self._crop(table, order, int(rng.integers(table.num_rows)), rng, skipped)
                pixels, labels = mix((pixels, labels), other[:2], rng)
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
                raise UserError(f"{error}. Check the data set with jobs/validate.py") from None
            if (labels == ignore_index).all():
                raise SampleError(f"{sample.label}: no pixel is labelled")
            return pixels, labels, sample.key

        pixels, labels, key = first_usable(order, place, read, skipped)
        crop = augment(pixels, labels, settings=self.augmentation, ignore_index=ignore_index, fill=self.fill, rng=rng)
        return *crop, key

    def _paste(self, crop: tuple[NDArray, NDArray], other: tuple[NDArray, NDArray], rng: np.random.Generator) -> Any:
        classes = self.augmentation.paste_classes
        return copy_paste(crop, other, classes=classes, ignore_index=self.classes.ignore_index, rng=rng)


@ray.remote(scheduling_strategy="SPREAD")
def draw_crops(draw: DrawCrops, table: pa.Table, epoch: int, positions: range) -> Crops:
    """`DrawCrops` as a task of any node."""
    return draw(table, epoch, positions)


Drawn = tuple[NDArray[np.uint8], NDArray, str]  # pixels, labels, key


def draw_all(draw: Callable[[int, dict[str, None]], Drawn], table: pa.Table, positions: range) -> Crops:
    """The examples at some positions, fetched at the same time.

    Args:
        draw: one of them; lines of images that cannot be used are added to its second argument.
        table: of samples, whose `image` says what storage they lie on.
        positions: in the epoch.
    """
    skipped: dict[str, None] = {}
    pool = _threads(LOCAL_THREADS if storage.is_local(table["image"][0].as_py()) else REMOTE_THREADS)
    pixels, labels, keys = zip(*pool.map(lambda p: draw(p, skipped), positions), strict=True)
    return Crops(np.stack(pixels), np.stack(labels), list(keys), list(skipped))


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Kept from task to task: a new thread's memory is new, too, and costs page faults."""
    return ThreadPoolExecutor(count)


T = TypeVar("T")


def first_usable(order: NDArray[np.int64], place: int, read: Callable[[int], T], skipped: dict[str, None]) -> T:
    """What `read` makes of the image at a place of the order.

    An image that cannot be used is skipped for the next one in the order, so that every step stays full.

    Args:
        order: indices of images.
        place: in the order.
        read: raises SampleError for an image that cannot be used.
        skipped: gets the message of each such error.

    Raises:
        UserError: no image can be used.
    """
    for attempt in range(len(order)):
        try:
            return read(int(order[(place + attempt) % len(order)]))
        except SampleError as error:
            skipped[str(error)] = None
    raise UserError("not one training image can be used; check the data set with jobs/validate.py")


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, passes: int, size: int) -> NDArray[np.int64]:
    """The order of the images in one pass of an epoch, int64 [size]."""
    return np.random.default_rng([seed, epoch, passes, size]).permutation(size)


def label_dtype(classes: Classes) -> np.dtype:
    """The smallest dtype that holds the class indices and the ignore index: labels cross the object store."""
    fits = 0 <= classes.ignore_index <= 255 and len(classes) <= 256
    return np.dtype(np.uint8 if fits else np.int32)


def mean_colour(preprocessing: Preprocessing) -> tuple[int, int, int]:
    """What padded pixels show: the colour that preprocessing maps to (almost) zero."""
    red, green, blue = (round(255 * m) for m in preprocessing.mean)
    return red, green, blue
