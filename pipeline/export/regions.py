"""Regions of a label map: the pixels of a class, or its connected parts."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


class Region(NamedTuple):
    """Pixels of a class.

    Attributes:
        label: Index of the class.
        top: First row.
        left: First column.
        mask: The pixels in their bounding box, bool [height, width].
    """

    label: int
    top: int
    left: int
    mask: NDArray[np.bool_]

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> list[int]:
        """Left, top, width, height."""
        return [self.left, self.top, self.mask.shape[1], self.mask.shape[0]]

    def whole(self, height: int, width: int) -> NDArray[np.bool_]:
        """The pixels in the whole image, bool [height, width]."""
        full = np.zeros((height, width), bool)
        full[self.top : self.top + self.mask.shape[0], self.left : self.left + self.mask.shape[1]] = self.mask
        return full


def regions(labels: NDArray, *, classes: int, components: bool, min_area: int = 1) -> Iterator[Region]:
    """Yield the regions of a label map, by class.

    Args:
        labels: Class indices [height, width]; other values are left out.
        classes: Number of classes.
        components: Yield each part that is connected by edges of pixels (4 neighbours), not all pixels of a class.
        min_area: Smallest number of pixels.
    """
    inside = np.where((labels >= 0) & (labels < classes), labels + 1, 0)
    for label, window in enumerate(ndimage.find_objects(inside, max_label=classes)):
        if window is None:
            continue
        mask = inside[window] == label + 1
        top, left = window[0].start, window[1].start
        if not components:
            if np.count_nonzero(mask) >= min_area:
                yield Region(label, top, left, mask)
            continue
        numbered, _ = ndimage.label(mask)
        sizes = np.bincount(numbered.ravel())
        for number, part in enumerate(ndimage.find_objects(numbered), start=1):
            if sizes[number] >= min_area:
                yield Region(label, top + part[0].start, left + part[1].start, numbered[part] == number)
