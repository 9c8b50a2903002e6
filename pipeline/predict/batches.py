"""Micro-batches of images of one shape. Imports no PyTorch."""

from collections.abc import Iterator, Sequence


def micro_batches(shapes: Sequence[tuple[int, ...]], *, max_pixels: int) -> Iterator[list[int]]:
    """Cut images into batches of one shape each within a pixel budget, so that collections of mixed sizes batch well.

    Args:
        shapes: Shape [height, width, …] of each image.
        max_pixels: Pixels of a batch; a larger image is a batch of its own.

    Yields:
        The positions of a batch's images; each position occurs exactly once.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, shape in enumerate(shapes):
        by_shape.setdefault(tuple(shape[:2]), []).append(i)
    for (height, width), members in by_shape.items():
        step = max(1, max_pixels // max(1, height * width))
        for start in range(0, len(members), step):
            yield members[start : start + step]
