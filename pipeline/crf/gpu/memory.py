"""How much memory the dense CRF on a device needs."""

import torch

CPU_BYTES = 2 * 2**30  # limit for a batch on a CPU
GPU_SHARE = 8  # on a GPU, a batch takes at most an eighth of the memory: the network and another batch fit too


def bytes_per_pixel(classes: int, channels: int = 3) -> int:
    """Return a bound on the working memory that inference needs per pixel.

    It is reached if no two pixels share a lattice point, as in noise; a drawn scene took a quarter of it. With
    n = channels + 3 vertices around a pixel, constructing the lattice takes 90 n bytes, the neighbours of its points
    12 n² bytes, the spatial lattice 250 bytes, and a step 9 rows of 4 · classes bytes for the pixel and 2 n rows for
    its points.
    """
    n = channels + 3
    return 90 * n + 12 * n**2 + 250 + 4 * classes * (9 + 2 * n)


def bytes_needed(height: int, width: int, classes: int, channels: int = 3) -> int:
    """Return a bound on the working memory for an image, without the image and its scores."""
    return height * width * bytes_per_pixel(classes, channels)


def batch_limit(device: torch.device) -> int:
    """Return the limit of the working memory for a batch of images, in bytes."""
    if device.type != "cuda":
        return CPU_BYTES
    return torch.cuda.get_device_properties(device).total_memory // GPU_SHARE
