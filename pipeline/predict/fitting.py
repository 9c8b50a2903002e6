"""Batches that fit the memory of a GPU."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Result = TypeVar("Result")


class FittingBatches:
    """Applies functions to batches that fit the memory of the GPU.

    A batch that does not fit is halved until it does. Later batches have no more pixels than the halves, so that only
    the first ones are computed in vain.
    """

    def __init__(self) -> None:
        self._most_pixels = sys.maxsize

    def __call__(
        self, function: Callable[[Sequence[NDArray[np.uint8]]], list[Result]], images: Sequence[NDArray[np.uint8]]
    ) -> list[Result]:
        """Return the results of a function for images of one shape, each [height, width, 3].

        Raises:
            torch.OutOfMemoryError: A single image does not fit.
        """
        height, width = images[0].shape[:2]
        results: list[Result] = []
        while len(results) < len(images):
            count = max(1, self._most_pixels // (height * width))
            batch = images[len(results) : len(results) + count]
            try:
                results += function(batch)
                continue
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
            torch.cuda.empty_cache()  # here, because the exception holds on to the tensors of its stack frames
            self._most_pixels = -(-len(batch) // 2) * height * width
        return results
