"""Images that are too large for the memory, in tiles that overlap."""

from collections.abc import Iterator
from typing import NamedTuple

MAX_BYTES = 2 * 2**30  # of working memory, unless told otherwise


class Tile(NamedTuple):
    """A part of an image: what is computed, and what of that is kept, both as (rows, columns) of the image.

    Attributes:
        outer: with the overlap.
        inner: without; the inner parts cover the image once.
    """

    outer: tuple[slice, slice]
    inner: tuple[slice, slice]

    @property
    def kept(self) -> tuple[slice, slice]:
        """The inner part as rows and columns of the outer."""
        rows, columns = (
            slice(i.start - o.start, i.stop - o.start) for i, o in zip(self.inner, self.outer, strict=True)
        )
        return rows, columns


def bytes_per_pixel(classes: int, channels: int) -> int:
    """What the mean field takes at most, about: the features, their place in two lattices, the scores, and the keys and
    three sets of values of lattices with as many points as pixels."""
    row = 4 * max(8, classes + 8)
    corners = (3 + channels) + 3
    return 4 * (2 + channels) + 8 * corners + row + 3 * row + 64


def tiles(height: int, width: int, *, max_pixels: int, overlap: int, align: int = 1) -> Iterator[Tile]:
    """Cut an image into as few tiles of at most so many pixels as can be.

    Args:
        height, width: of the image.
        max_pixels: of a tile with its overlap.
        overlap: pixels that a tile sees beyond its inner part, where the image has them.
        align: outer parts begin at multiples of it.

    Raises:
        ValueError: the overlap leaves nothing of a tile.
    """
    if height * width <= max_pixels:
        whole = (slice(0, height), slice(0, width))
        yield Tile(whole, whole)
        return
    side = (int(max_pixels**0.5) - 2 * overlap) // align * align
    if side < max(1, overlap // 2):
        raise ValueError(
            f"the image, {width}x{height}, is too large: in the memory allowed a tile has {max_pixels:,} pixels, too "
            f"few for an overlap of {overlap} on each side. Allow more memory, or take a smaller sigma_alpha"
        )
    for y in range(0, height, side):
        for x in range(0, width, side):
            inner = (slice(y, min(y + side, height)), slice(x, min(x + side, width)))
            outer = tuple(
                slice(max(0, i.start - overlap) // align * align, min(i.stop + overlap, size))
                for i, size in zip(inner, (height, width), strict=True)
            )
            yield Tile((outer[0], outer[1]), inner)
