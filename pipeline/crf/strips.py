"""The order in which an image's pixels are visited: down one vertical strip after the other.

The pixels of a few short lines share most of their lattice points, and these then stay in the processor's first cache;
along whole lines they would not.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

STRIP = 64  # pixels; even, so that squares of 2x2 pixels do not straddle


def strips(height: int, width: int, *, strip: int = STRIP) -> Iterator[tuple[slice, slice]]:
    """The columns of each strip, and the places of its pixels in the order."""
    for start in range(0, width, strip):
        stop = min(start + strip, width)
        yield slice(start, stop), slice(start * height, stop * height)


def to_image(ordered: NDArray, height: int, width: int) -> NDArray:
    """[…, pixels] in that order to […, height, width]."""
    image = np.empty((*ordered.shape[:-1], height, width), ordered.dtype)
    for columns, places in strips(height, width):
        image[..., columns] = ordered[..., places].reshape(*ordered.shape[:-1], height, -1)
    return image
