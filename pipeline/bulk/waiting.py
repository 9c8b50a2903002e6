"""Images that wait until others of their shape fill a batch."""

import copy
from collections import deque

from pipeline.bulk.fetch import Fetched


class Waiting:
    """Keeps the images that wait, by their number.

    An image's arrays lie in shared memory beside those of the images with which it came, and all of that stays as long
    as one of them does. So an image of a rare shape, which waits for longer than a batch takes to fill, is copied.

    Args:
        patience: Pixels that arrive after an image before it is copied.
    """

    def __init__(self, *, patience: int):
        self._patience = patience
        self._images: dict[int, Fetched] = {}
        self._arrivals: deque[tuple[int, int]] = deque()  # of images, and the pixels that had arrived then
        self._pixels = 0

    def add(self, index: int, image: Fetched) -> None:
        """Add an image with its `prepared` input, and copy those that have waited for long."""
        assert image.prepared is not None
        height, width = image.prepared.shape[:2]
        self._images[index] = image
        self._pixels += height * width
        self._arrivals.append((index, self._pixels))
        while self._pixels - self._arrivals[0][1] > self._patience:
            late, _ = self._arrivals.popleft()
            if late in self._images:
                self._images[late] = copy.deepcopy(self._images[late])

    def take(self, index: int) -> Fetched:
        """Remove an image and return it."""
        return self._images.pop(index)
