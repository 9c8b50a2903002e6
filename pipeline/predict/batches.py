"""Micro-batches of images of one shape."""

from collections.abc import Iterator, Sequence


def micro_batches(shapes: Sequence[tuple[int, ...]], *, max_pixels: int) -> Iterator[list[int]]:
    """Group images by shape and cut each group into batches within a pixel budget.

    Args:
        shapes: Shape [height, width, …] of each image.
        max_pixels: Largest number of pixels in a batch; a larger image is a batch of its own.

    Yields:
        The indices of a batch's images. Each index occurs exactly once.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, shape in enumerate(shapes):
        by_shape.setdefault(tuple(shape[:2]), []).append(i)
    for (height, width), members in by_shape.items():
        step = max(1, max_pixels // max(1, height * width))
        for start in range(0, len(members), step):
            yield members[start : start + step]
