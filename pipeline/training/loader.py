"""Batches for a training worker: crops that tasks of the cluster draw ahead of it, in order, on its device."""

import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from torch import Tensor

from pipeline.training.examples import Examples, draw_examples, part_of_batch

PER_TASK = 8  # crops that a task draws: few, so that the first batch is there soon
MOST_TASKS = 64  # at a time for one worker: what they draw lies in memory
AHEAD = 2  # batches that are drawn ahead, at least


class Batch(NamedTuple):
    """A worker's part of a step's batch.

    Attributes:
        pixels: uint8 [crops, height, width, 3] on the device.
        labels: int64 [crops, height, width] on the device.
        keys: of the images shown.
        skipped: a line for each image that could not be used.
    """

    pixels: Tensor
    labels: Tensor
    keys: list[str]
    skipped: list[str]


class Loader:
    """Iterates over the steps of epochs.

    Args:
        draw, table: object references to a `DrawCrops` and the table of samples.
        batch_size: images in a step, over all workers.
        rank, world: this worker among all.
        device: where batches go.
        tasks: that draw at a time, for a cluster with many CPUs.
        task_cpus: that each reserves; 0 where workers may take every CPU, and tasks would wait for ever.
    """

    def __init__(
        self,
        draw: Any,
        table: Any,
        *,
        batch_size: int,
        rank: int,
        world: int,
        device: torch.device,
        max_tasks: int,
        task_cpus: int = 1,
    ):
        self._draw_examples = draw_examples.options(num_cpus=task_cpus)
        self._draw = draw
        self._table = table
        self._batch_size = batch_size
        self._rank = rank
        self._world = world
        self._device = device
        self._max_tasks = min(max_tasks, MOST_TASKS)
        self.waited = 0.0  # seconds in which the worker had no batch to learn from

    def __call__(self, *, epochs: Iterable[int], steps: int) -> Generator[Batch]:
        """The batches of some epochs, one epoch's after the other's without a pause.

        Args:
            epochs: that decide what is drawn.
            steps: of each.

        Raises:
            ray.exceptions.RayTaskError: whose cause is what a task raised.
        """
        todo = ((epoch, step) for epoch in epochs for step in range(steps))
        drawing: deque[list[Any]] = deque()
        # One thread fetches the next batch and moves it while this one is learnt from.
        with ThreadPoolExecutor(1) as pool:
            ahead: Future[Batch] | None = None
            while True:
                while len(drawing) < AHEAD or sum(map(len, drawing)) < self._max_tasks:
                    place = next(todo, None)
                    if place is None:
                        break
                    drawing.append(self._submit(*place))
                if ahead is None and not drawing:
                    return
                start = time.perf_counter()
                batch = ahead.result() if ahead is not None else self._collect(drawing.popleft())
                self.waited += time.perf_counter() - start
                ahead = pool.submit(self._collect, drawing.popleft()) if drawing else None
                yield batch

    def _submit(self, epoch: int, step: int) -> list[Any]:
        mine = part_of_batch(step, self._batch_size, self._rank, self._world)
        chunks = [mine[i : i + PER_TASK] for i in range(0, len(mine), PER_TASK)]
        return [self._draw_examples.remote(self._draw, self._table, epoch, chunk) for chunk in chunks]

    def _collect(self, references: list[Any]) -> Batch:
        parts: list[Examples] = ray.get(references)
        pixels = torch.from_numpy(np.concatenate([p.pixels for p in parts]))
        # A GPU gets labels as narrow as they are and widens them. On a CPU NumPy does: torch would start OpenMP threads
        # for this thread, too, and with more of them than cores the learning thread's loops end in a sleep.
        cuda = self._device.type == "cuda"
        labels = torch.from_numpy(np.concatenate([p.labels for p in parts], dtype=None if cuda else np.int64))
        if cuda:
            pixels, labels = pixels.pin_memory(), labels.pin_memory()
        return Batch(
            pixels.to(self._device, non_blocking=True),
            labels.to(self._device, non_blocking=True).long(),
            [key for p in parts for key in p.keys],
            [line for p in parts for line in p.skipped],
        )
