"""Batches of images of one shape, formed while the images arrive."""

import sys
from collections.abc import Iterator, Sequence


class Batches:
    """Collects images by shape until they fill a batch.

    Which images share a batch depends on their shapes and order alone, so that a repeated run computes the same.

    Args:
        max_pixels: Largest number of pixels in a batch; a larger image is a batch of its own.
        max_waiting: Largest number of pixels that wait for others of their shape.
    """

    def __init__(self, *, max_pixels: int, max_waiting: int):
        self._max_pixels = max_pixels
        self._max_waiting = max_waiting
        self._groups: dict[tuple[int, int], list[int]] = {}

    def add(self, index: int, shape: tuple[int, ...]) -> list[list[int]]:
        """Add an image; return the batches that are to be computed now, as lists of indices.

        Args:
            index: Number of the image.
            shape: Its shape [height, width, …].
        """
        key = (shape[0], shape[1])
        group = self._groups.setdefault(key, [])
        group.append(index)
        full = []
        if (len(group) + 1) * _pixels(key) > self._max_pixels:
            full.append(self._groups.pop(key))
        while sum(len(group) * _pixels(key) for key, group in self._groups.items()) > self._max_waiting:
            fullest = max(self._groups, key=lambda key: len(self._groups[key]) * _pixels(key))
            full.append(self._groups.pop(fullest))
        return full

    def rest(self) -> list[list[int]]:
        """Return the batches that never filled."""
        groups, self._groups = list(self._groups.values()), {}
        return groups


def _pixels(shape: tuple[int, int]) -> int:
    return max(1, shape[0] * shape[1])


def micro_batches(shapes: Sequence[tuple[int, ...]], *, max_pixels: int) -> Iterator[list[int]]:
    """Group images by shape and cut each group into batches within a pixel budget.

    Args:
        shapes: Shape [height, width, …] of each image.
        max_pixels: Largest number of pixels in a batch; a larger image is a batch of its own.

    Yields:
        The indices of a batch's images. Each index occurs exactly once.
    """
    batches = Batches(max_pixels=max_pixels, max_waiting=sys.maxsize)
    for i, shape in enumerate(shapes):
        yield from batches.add(i, shape)
    yield from batches.rest()
