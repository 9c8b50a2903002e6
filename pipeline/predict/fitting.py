"""Batches that fit the memory of a GPU."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class FittingBatches:
    """Applies functions to batches that fit the memory of the GPU.

    A batch that does not fit is halved until it does. Later batches have no more pixels than the halves, so that only
    the first ones are computed in vain.

    Attributes:
        most_pixels: Largest number of pixels that a batch is known, or hoped, to have room for.
    """

    def __init__(self) -> None:
        self.most_pixels = sys.maxsize

    def __call__(
        self, function: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], *, pixels: int
    ) -> list[Result]:
        """Return the results of a function for images of one shape, or what else it takes.

        Args:
            function: Function of a batch.
            items: The items of the batch.
            pixels: Pixels of an item.

        Raises:
            torch.OutOfMemoryError: A single item does not fit.
        """
        results: list[Result] = []
        while len(results) < len(items):
            count = max(1, self.most_pixels // pixels)
            batch = items[len(results) : len(results) + count]
            try:
                results += function(batch)
                continue
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
            torch.cuda.empty_cache()  # here, because the exception holds on to the tensors of its stack frames
            self.most_pixels = min(self.most_pixels, -(-len(batch) // 2) * pixels)
        return results
