"""Batches for a training worker, which tasks of the cluster draw ahead and in order."""

import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.training.examples import Examples, draw_examples, part_of_batch
from pipeline.training.task import Labels, Pixels

EXAMPLES_PER_TASK = 8  # few, so that the first batch is there soon
MAX_TASKS = 64  # tasks at a time for one worker, because the object store holds what they draw
BATCHES_AHEAD = 2  # least number of batches that are drawn ahead


class Batch(NamedTuple):
    """A worker's part of a step's batch.

    Attributes:
        pixels: uint8 [examples, height, width, 3], or a list of images of any sizes, on the device.
        labels: int64 [examples, …], or a list with a named tuple of tensors for each image, on the device, in the form
            that the task's loss takes.
        keys: Keys of the images.
        skipped: A line for each image that could not be used.
    """

    pixels: Pixels
    labels: Labels
    keys: list[str]
    skipped: list[str]


class Loader:
    """Iterates over the batches of epochs.

    Args:
        draw: Object reference to the `examples.Draw` of the training examples.
        table: Object reference to the table of training images.
        batch_size: Images in a step, over all workers.
        rank: Number of this worker, from 0.
        world: Number of workers.
        device: Device that batches are moved to.
        max_tasks: Tasks at a time, at most `MAX_TASKS`.
        task_cpus: CPUs that each task reserves; 0 if workers may take every CPU, so that tasks would wait for ever.

    Attributes:
        waited: Seconds that the worker has waited for batches.
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
        self._max_tasks = min(max_tasks, MAX_TASKS)
        self.waited = 0.0

    def __call__(self, *, epochs: Iterable[int], steps: int) -> Generator[Batch]:
        """Yield the batches of some epochs, without a pause between epochs.

        Args:
            epochs: Numbers of the epochs, which decide what is drawn.
            steps: Steps of each epoch.

        Raises:
            ray.exceptions.RayTaskError: A task failed; the cause is the exception that it raised.
        """
        steps_to_draw = ((epoch, step) for epoch in epochs for step in range(steps))
        drawing: deque[list[Any]] = deque()
        # A thread fetches the next batch and moves it to the device while the worker learns from the current one.
        with ThreadPoolExecutor(1) as pool:
            next_batch: Future[Batch] | None = None
            while True:
                while len(drawing) < BATCHES_AHEAD or sum(map(len, drawing)) < self._max_tasks:
                    epoch_and_step = next(steps_to_draw, None)
                    if epoch_and_step is None:
                        break
                    drawing.append(self._submit(*epoch_and_step))
                if next_batch is None and not drawing:
                    return
                start = time.perf_counter()
                batch = next_batch.result() if next_batch is not None else self._collect(drawing.popleft())
                self.waited += time.perf_counter() - start
                next_batch = pool.submit(self._collect, drawing.popleft()) if drawing else None
                yield batch

    def _submit(self, epoch: int, step: int) -> list[Any]:
        """Start the tasks that draw this worker's part of a step, and return references to their results."""
        positions = part_of_batch(step, self._batch_size, self._rank, self._world)
        chunks = [positions[i : i + EXAMPLES_PER_TASK] for i in range(0, len(positions), EXAMPLES_PER_TASK)]
        return [self._draw_examples.remote(self._draw, self._table, epoch, chunk) for chunk in chunks]

    def _collect(self, references: list[Any]) -> Batch:
        """Wait for the tasks of a step, and move what they drew to the device."""
        parts: list[Examples] = ray.get(references)
        pixels, labels = self._joined(parts)
        return Batch(
            pixels, labels, [key for p in parts for key in p.keys], [line for p in parts for line in p.skipped]
        )

    def _joined(self, parts: list[Examples]) -> tuple[Pixels, Labels]:
        """Return the pixels and labels of examples on the device."""
        if isinstance(parts[0].pixels, list):
            images = [self._moved(pixels) for p in parts for pixels in p.pixels]
            return images, [type(label)(*map(self._moved, label)) for p in parts for label in p.labels]
        pixels = torch.from_numpy(np.concatenate([p.pixels for p in parts]))
        # A GPU receives labels in their narrow dtype and widens them. For a CPU, NumPy widens them: torch would start
        # an OpenMP pool for this thread, and libgomp sleeps at barriers if there are more threads than cores
        # (docs/decisions.md).
        cuda = self._device.type == "cuda"
        labels = torch.from_numpy(np.concatenate([p.labels for p in parts], dtype=None if cuda else np.int64))
        if cuda:
            pixels, labels = pixels.pin_memory(), labels.pin_memory()
        return pixels.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True).long()

    def _moved(self, array: NDArray) -> Tensor:
        """Return an array on the device; Ray's arrays are read-only, and PyTorch wants to be able to write."""
        return torch.from_numpy(array.copy()).to(self._device)
