"""Training examples, drawn by CPU tasks of the whole cluster. Imports no PyTorch: it costs each process seconds.

The example at a position of an epoch depends on (seed, epoch, position) alone: not on which task draws it or when, nor
on the number of workers. A step takes the next `batch_size` positions, and each worker takes its part of them.
"""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from pipeline import storage
from pipeline.data.datasets import SampleError
from pipeline.data.preprocessing import Preprocessing
from pipeline.errors import UserError

REMOTE_THREADS = 8  # files that a task fetches at a time, because remote storage answers late
LOCAL_THREADS = 2  # the same for local files; more threads only contend, and a crop costs a third more CPU


class Examples(NamedTuple):
    """Consecutive training examples of one worker.

    Attributes:
        pixels: uint8 [examples, height, width, 3], or a list of images of any sizes.
        labels: [examples, …], or a list with a named tuple of arrays for each image, in the form that the task's loss
            takes.
        keys: Keys of the images.
        skipped: A line for each image that could not be used.
    """

    pixels: NDArray[np.uint8] | list[NDArray[np.uint8]]
    labels: NDArray | list[Any]
    keys: list[str]
    skipped: list[str]


class Draw(Protocol):
    """Draws training examples by their positions in an epoch; it is pickled to tasks that have no PyTorch."""

    def __call__(self, table: pa.Table, epoch: int, positions: range) -> Examples:
        """Draw the examples at some positions of an epoch.

        Args:
            table: One row per training image.
            epoch: Number of the epoch, from 0.
            positions: Positions in the epoch.

        Raises:
            UserError: The data set contradicts itself, or no image can be used.
        """


@dataclass(frozen=True)
class TrainingData:
    """What training examples are drawn from, and how.

    Attributes:
        table: One row per training image; its column `image` holds URLs.
        draw: Draws examples from the table.
    """

    table: pa.Table
    draw: Draw


def part_of_batch(step: int, batch_size: int, rank: int, world: int) -> range:
    """Return the positions in the epoch that a worker takes in a step; the parts' sizes differ by at most one."""
    start = step * batch_size
    return range(start + batch_size * rank // world, start + batch_size * (rank + 1) // world)


@ray.remote(scheduling_strategy="SPREAD")
def draw_examples(draw: Draw, table: pa.Table, epoch: int, positions: range) -> Examples:
    """Call `draw` as a task on any node."""
    return draw(table, epoch, positions)


Example = tuple[NDArray[np.uint8], Any, str]  # pixels, labels, key


def draw_all(
    draw: Callable[[int, dict[str, None]], Example], table: pa.Table, positions: range, *, stacked: bool = True
) -> Examples:
    """Draw the examples at some positions, several at a time.

    Args:
        draw: Draws the example at a position; it adds a line to its second argument for each unusable image.
        table: Training images; the first URL in its column `image` tells the kind of storage.
        positions: Positions in the epoch.
        stacked: Whether all examples have one size; if not, they stay lists.
    """
    skipped: dict[str, None] = {}
    pool = _threads(LOCAL_THREADS if storage.is_local(table["image"][0].as_py()) else REMOTE_THREADS)
    pixels, labels, keys = zip(*pool.map(lambda p: draw(p, skipped), positions), strict=True)
    if not stacked:
        return Examples(list(pixels), list(labels), list(keys), list(skipped))
    return Examples(np.stack(pixels), np.stack(labels), list(keys), list(skipped))


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Return a pool that is kept from task to task: a new thread's memory is new too, and costs page faults."""
    return ThreadPoolExecutor(count)


T = TypeVar("T")


def first_usable(order: NDArray[np.int64], place: int, read: Callable[[int], T], skipped: dict[str, None]) -> T:
    """Read the image at a place of the order, or the next one that can be used, so that every step stays full.

    Args:
        order: Indices of images.
        place: Place in the order.
        read: Reads the image of an index; raises SampleError if the image cannot be used.
        skipped: Receives the message of each such error.

    Raises:
        UserError: No image can be used.
    """
    for attempt in range(len(order)):
        try:
            return read(int(order[(place + attempt) % len(order)]))
        except SampleError as error:
            skipped[str(error)] = None
    raise UserError(
        f"none of the {len(order)} training images can be used, the first problem: {next(iter(skipped), '–')}"
    )


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, passes: int, size: int) -> NDArray[np.int64]:
    """Return the order of the images in one pass of an epoch, int64 [size]."""
    return np.random.default_rng([seed, epoch, passes, size]).permutation(size)


def mean_colour(preprocessing: Preprocessing) -> tuple[int, int, int]:
    """Return the colour of padding: preprocessing maps it to almost zero."""
    red, green, blue = (round(255 * m) for m in preprocessing.mean)
    return red, green, blue
