"""How much memory the dense CRF on a device needs."""

import torch

CPU_BYTES = 2 * 2**30  # limit for a batch on a CPU
GPU_SHARE = (
    8  # on a GPU, a batch takes at most one part in so many of the memory: the network and another batch fit too
)


def bytes_per_pixel(classes: int, channels: int = 3) -> int:
    """Return a bound on the working memory that inference needs per pixel.

    It is reached if no two pixels share a lattice point, as in noise; a drawn scene took a quarter of it. With
    n = channels + 3 vertices around a pixel, constructing the lattice takes at most 130 n bytes, which covers the
    tables of the steps too (24 n bytes, and 16 n + 12 n² for the points), the spatial lattice 250 bytes, and a step
    9 rows of 4 · classes bytes for the pixel and 2 n for its points.
    """
    vertices = channels + 3
    return 130 * vertices + 250 + 4 * classes * (9 + 2 * vertices)


def bytes_needed(height: int, width: int, classes: int, channels: int = 3) -> int:
    """Return a bound on the working memory for an image, without the image and its scores."""
    return height * width * bytes_per_pixel(classes, channels)


def batch_limit(device: torch.device) -> int:
    """Return the limit of the working memory for a batch of images, in bytes."""
    if device.type != "cuda":
        return CPU_BYTES
    return torch.cuda.get_device_properties(device).total_memory // GPU_SHARE
