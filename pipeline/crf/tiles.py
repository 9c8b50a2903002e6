"""Overlapping tiles, for images whose working memory would be too large."""

from collections.abc import Iterator
from typing import NamedTuple

MAX_BYTES = 2 * 2**30  # default limit of the working memory


class Tile(NamedTuple):
    """A part of an image that is refined on its own.

    Attributes:
        outer: (rows, columns) of the image to refine, including the overlap.
        inner: (rows, columns) of the image to keep. The inner parts of all tiles cover the image once.
    """

    outer: tuple[slice, slice]
    inner: tuple[slice, slice]

    @property
    def kept(self) -> tuple[slice, slice]:
        """The inner part as (rows, columns) of the outer part."""
        rows, columns = (
            slice(i.start - o.start, i.stop - o.start) for i, o in zip(self.inner, self.outer, strict=True)
        )
        return rows, columns


def bytes_per_pixel(classes: int, channels: int) -> int:
    """Estimate the most working memory that inference needs per pixel.

    The estimate counts the features, the vertices and weights in two lattices, the scores, and the keys and three sets
    of values of lattices with as many points as pixels.
    """
    row = 4 * max(8, classes + 8)
    corners = (3 + channels) + 3
    return 4 * (2 + channels) + 8 * corners + row + 3 * row + 64


def tiles(height: int, width: int, *, max_pixels: int, overlap: int, align: int = 1) -> Iterator[Tile]:
    """Cut an image into as few tiles as the limit on their size allows.

    Args:
        height: height of the image.
        width: width of the image.
        max_pixels: largest number of pixels of a tile, including its overlap.
        overlap: width of the margin around the inner part, where the image extends that far.
        align: outer parts begin at multiples of this number.

    Yields:
        Tiles, from left to right and top to bottom.

    Raises:
        ValueError: The overlap leaves too small an inner part.
    """
    if height * width <= max_pixels:
        whole = (slice(0, height), slice(0, width))
        yield Tile(whole, whole)
        return
    side = (int(max_pixels**0.5) - 2 * overlap) // align * align
    if side < max(1, overlap // 2):
        raise ValueError(
            f"the image, {width}x{height}, is too large: within the memory limit a tile has {max_pixels:,} pixels, too "
            f"few for an overlap of {overlap} on each side; allow more memory or use a smaller sigma_alpha"
        )
    for y in range(0, height, side):
        for x in range(0, width, side):
            inner = (slice(y, min(y + side, height)), slice(x, min(x + side, width)))
            outer = tuple(
                slice(max(0, i.start - overlap) // align * align, min(i.stop + overlap, size))
                for i, size in zip(inner, (height, width), strict=True)
            )
            yield Tile((outer[0], outer[1]), inner)
