"""Which pixels of an image a mean field runs on, and the order in which it visits them.

Every pixel; or, where the image is settled beforehand, one for a whole square of them. The order is by blocks of 4x4
pixels, down one vertical strip after the other: near pixels share most of their lattice points, and these then stay in
the processor's first cache; along whole lines they would not.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

BLOCK_SIDE = 4  # pixels; the largest square has this side
STRIP = 8  # blocks


class Samples(NamedTuple):
    """Squares of pixels, each seen by the pixel in its middle (of an even side, the one right and below of it).

    Attributes:
        size: (height, width) of the image.
        side: of all squares, in pixels; None where they differ.
        ys, xs: int32 [samples], their first line and column.
        sides: int32 [samples]: 1, 2 or 4. A square may reach beyond the image, its middle does not.
    """

    size: tuple[int, int]
    side: int | None
    ys: NDArray[np.int32]
    xs: NDArray[np.int32]
    sides: NDArray[np.int32]

    @property
    def squares(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        return self.ys, self.xs, self.sides

    def paint(self, values: NDArray) -> NDArray:
        """An image [height, width] in which each square has its sample's value."""
        image = np.empty(self.size, values.dtype)
        _paint(image, *self.squares, values)
        return image


@lru_cache(maxsize=4)
def equal_squares(height: int, width: int, side: int) -> Samples:
    """The whole image in squares of a side, 1 or 4. It depends on the size alone, and is kept for the next image."""
    rows, columns = blocks(height, width) if side == BLOCK_SIDE else (-(-height // BLOCK_SIDE), -(-width // BLOCK_SIDE))
    return squares(height, width, np.full((rows, columns), side, np.int32))._replace(side=side)


def blocks(height: int, width: int) -> tuple[int, int]:
    """How many rows and columns of blocks of 4x4 pixels have their middle in the image."""
    return (height + BLOCK_SIDE // 2 - 1) // BLOCK_SIDE, (width + BLOCK_SIDE // 2 - 1) // BLOCK_SIDE


def squares(height: int, width: int, sides: NDArray[np.int32]) -> Samples:
    """The squares in which to see the pixels of each block of 4x4, given their sides [rows, columns]."""
    room = int(np.sum((BLOCK_SIDE // sides) ** 2))
    ys, xs, own = (np.empty(room, np.int32) for _ in range(3))
    count = _visit(height, width, sides, ys, xs, own)
    return Samples((height, width), None, ys[:count], xs[:count], own[:count])


@njit(nogil=True, cache=True)
def _visit(height, width, sides, ys, xs, own):
    n, rows, columns = 0, sides.shape[0], sides.shape[1]
    for strip in range(0, columns, STRIP):
        for row in range(rows):
            for column in range(strip, min(strip + STRIP, columns)):
                side = sides[row, column]
                for y in range(row * BLOCK_SIDE, min((row + 1) * BLOCK_SIDE, height), side):
                    for x in range(column * BLOCK_SIDE, min((column + 1) * BLOCK_SIDE, width), side):
                        ys[n], xs[n], own[n] = y, x, side
                        n += 1
    return n


@njit(nogil=True, cache=True)
def _paint(image, ys, xs, sides, values):
    height, width = image.shape
    for i in range(len(ys)):
        for y in range(ys[i], min(ys[i] + sides[i], height)):
            for x in range(xs[i], min(xs[i] + sides[i], width)):
                image[y, x] = values[i]
