"""The samples of an image on which mean-field inference runs, and their order.

A sample is one pixel or, where the labels are clear beforehand, a square of 2x2 or 4x4 pixels. Samples are ordered by
blocks of 4x4 pixels, and the blocks by vertical strips: nearby pixels share most of their lattice points, and in this
order those points stay in the level-1 cache, which they would not along whole image lines.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.crf.compiling import njit

BLOCK_SIDE = 4  # pixels; the largest square is a whole block
STRIP_BLOCKS = 8  # width of a strip, in blocks


class Samples(NamedTuple):
    """Squares that cover an image, each represented by its middle pixel.

    The middle of a square with an even side is the pixel to the right of and below its centre.

    Attributes:
        size: (height, width) of the image.
        side: side of all squares in pixels, or None if they differ.
        ys, xs: int32 [samples], top line and left column of each square.
        sides: int32 [samples], sides of the squares: 1, 2 or 4 pixels. A square may extend beyond the image, but its
            middle pixel does not.
    """

    size: tuple[int, int]
    side: int | None
    ys: NDArray[np.int32]
    xs: NDArray[np.int32]
    sides: NDArray[np.int32]

    @property
    def squares(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """The squares as (ys, xs, sides)."""
        return self.ys, self.xs, self.sides

    def paint(self, values: NDArray) -> NDArray:
        """Return an image [height, width] in which each square has its sample's value."""
        image = np.empty(self.size, values.dtype)
        _paint(image, *self.squares, values)
        return image


@lru_cache(maxsize=4)
def equal_squares(height: int, width: int, side: int) -> Samples:
    """Return samples that cover an image in squares of one side, 1 or 4 pixels.

    They depend on the image's size alone and are cached for the next image.
    """
    whole_grid = -(-height // BLOCK_SIDE), -(-width // BLOCK_SIDE)
    grid = block_grid(height, width) if side == BLOCK_SIDE else whole_grid
    return mixed_squares(height, width, np.full(grid, side, np.int32))._replace(side=side)


def block_grid(height: int, width: int) -> tuple[int, int]:
    """Return the numbers of rows and columns of blocks whose middle pixel lies in the image."""
    return (height + BLOCK_SIDE // 2 - 1) // BLOCK_SIDE, (width + BLOCK_SIDE // 2 - 1) // BLOCK_SIDE


def mixed_squares(height: int, width: int, sides: NDArray[np.int32]) -> Samples:
    """Return samples that cover each block of 4x4 pixels in squares of the block's own side.

    Args:
        height: height of the image.
        width: width of the image.
        sides: int32 [rows of blocks, columns of blocks], 1, 2 or 4.
    """
    capacity = int(np.sum((BLOCK_SIDE // sides) ** 2))
    ys, xs, sample_sides = (np.empty(capacity, np.int32) for _ in range(3))
    count = _list_squares(height, width, sides, ys, xs, sample_sides)
    return Samples((height, width), None, ys[:count], xs[:count], sample_sides[:count])


@njit(nogil=True, cache=True)
def _list_squares(height, width, sides, ys, xs, sample_sides):
    """Write the squares in their order and return their number."""
    n, rows, columns = 0, sides.shape[0], sides.shape[1]
    for strip in range(0, columns, STRIP_BLOCKS):
        for row in range(rows):
            for column in range(strip, min(strip + STRIP_BLOCKS, columns)):
                side = sides[row, column]
                for y in range(row * BLOCK_SIDE, min((row + 1) * BLOCK_SIDE, height), side):
                    for x in range(column * BLOCK_SIDE, min((column + 1) * BLOCK_SIDE, width), side):
                        ys[n], xs[n], sample_sides[n] = y, x, side
                        n += 1
    return n


@njit(nogil=True, cache=True)
def _paint(image, ys, xs, sides, values):
    height, width = image.shape
    for i in range(len(ys)):
        for y in range(ys[i], min(ys[i] + sides[i], height)):
            for x in range(xs[i], min(xs[i] + sides[i], width)):
                image[y, x] = values[i]
