"""The training images as an endless, reproducible draw of crops, made by Ray Data's CPU tasks.

Imports no torch: its tasks run on every CPU of the cluster.
"""

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray

from pipeline.classes import Classes
from pipeline.datasets import BadLabelError, Sample, SampleError, read_sample
from pipeline.errors import UserError
from pipeline.training.config import TrainConfig
from pipeline.transforms import augment

BLOCK = 8  # crops that one task draws: small, so that the first batch is there soon
THREADS = 8  # fetches at a time in a task


def training_stream(config: TrainConfig, samples: list[Sample], classes: Classes, monitor: Any) -> ray.data.Dataset:
    """One epoch of crops; Ray Train runs it anew for every epoch.

    The crop at a position depends on (seed, epoch, position) alone, not on which worker draws it or when.
    Ray Data runs the same plan for every epoch and tells its tasks nothing of it, so they ask the monitor.

    Returns:
        rows of `pixels` uint8 [crop height, crop width, 3] and `labels` (smallest unsigned or int32)
        [crop height, crop width]; exactly steps per epoch x batch size of them.
    """
    count = config.steps_per_epoch(len(samples)) * config.batch_size
    draw = DrawCrops(
        table=ray.put(pa.table({name: [getattr(s, name) for s in samples] for name in Sample._fields})),
        classes=classes,
        config=config,
        monitor=monitor,
    )
    positions = ray.data.range(count, override_num_blocks=math.ceil(count / BLOCK))
    return positions.map_batches(draw, batch_size=None, zero_copy_batch=True)


class DrawCrops:
    """Maps positions in an epoch to crops; see `training_stream`."""

    def __init__(self, *, table: Any, classes: Classes, config: TrainConfig, monitor: Any):
        self.table = table
        self.classes = classes
        self.config = config
        self.monitor = monitor
        self.label_dtype = label_dtype(classes)

    def __call__(self, batch: dict[str, NDArray]) -> dict[str, NDArray]:
        epoch = ray.get(self.monitor.get_epoch.remote())
        table = ray.get(self.table)  # zero-copy from the node's object store
        with ThreadPoolExecutor(THREADS) as pool:
            crops = list(pool.map(lambda p: self._crop(int(p), epoch, table), batch["id"]))
        return {
            "pixels": np.stack([pixels for pixels, _ in crops]),
            "labels": np.stack([labels.astype(self.label_dtype) for _, labels in crops]),
        }

    def _crop(self, position: int, epoch: int, table: pa.Table) -> tuple[NDArray, NDArray]:
        config, size = self.config, table.num_rows
        rng = np.random.default_rng([config.seed, epoch, position])
        passes, place = divmod(position, size)
        order = permutation(config.seed, epoch, passes, size)
        # An unreadable image is skipped for the next one in the order, so that every step stays full.
        for attempt in range(size):
            index = int(order[(place + attempt) % size])
            sample = Sample(*(table[name][index].as_py() for name in Sample._fields))
            try:
                pixels, labels = read_sample(sample, self.classes)
            except BadLabelError as error:
                raise UserError(f"{error}. Check the data set with jobs/validate.py") from None
            except SampleError as error:
                self.monitor.skipped.remote(str(error))
                continue
            return augment(
                pixels,
                labels,
                settings=config.augmentation,
                ignore_index=self.classes.ignore_index,
                fill=mean_colour(config),
                rng=rng,
            )
        raise UserError("not one training image can be read; check the data set with jobs/validate.py")


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, passes: int, size: int) -> NDArray[np.int64]:
    """The order of the images in one pass of an epoch, int64 [size]."""
    return np.random.default_rng([seed, epoch, passes, size]).permutation(size)


def label_dtype(classes: Classes) -> np.dtype:
    """The smallest dtype that holds the class indices and the ignore index: labels cross the object store."""
    fits = 0 <= classes.ignore_index <= 255 and len(classes) <= 256
    return np.dtype(np.uint8 if fits else np.int32)


def mean_colour(config: TrainConfig) -> tuple[int, int, int]:
    """What padded pixels show: the colour that preprocessing maps to (almost) zero."""
    red, green, blue = (round(255 * m) for m in config.preprocessing.mean)
    return red, green, blue
