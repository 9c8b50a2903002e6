"""How many pixels a batch needs to fill a device."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

CPU_PIXELS = 1_000_000  # a larger batch computes no faster on a CPU
WORTHWHILE = 1.05  # gain in images per second for which a batch is doubled
MEMORY_SHARE = 0.2  # of the device's free memory: there are four batches at a time, see `device.streams`


def measure_batch_pixels(
    compute: Callable[[Sequence[NDArray[np.uint8]]], Any], device: torch.device, *, size: tuple[int, int] = (512, 512)
) -> int:
    """Measure the number of pixels beyond which a larger batch is no faster, or fills too much of the memory.

    Args:
        compute: Computes a batch of images of one shape, uint8 [height, width, 3].
        device: The device; nothing is measured on a CPU.
        size: Height and width of the images.
    """
    if device.type != "cuda":
        return CPU_PIXELS
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    free, _ = torch.cuda.mem_get_info(device)
    best, best_rate, images = 1, 0.0, 1
    while True:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            seconds = _best_of([image] * images, compute)
        except torch.OutOfMemoryError:
            break
        except RuntimeError:  # a kernel that cannot take so many values
            if images == 1:
                raise
            break
        rate = images / seconds
        if rate < WORTHWHILE * best_rate:
            break
        best, best_rate = images, rate
        used = torch.cuda.max_memory_allocated(device) - before
        if 2 * used > MEMORY_SHARE * free:
            break
        images *= 2
    torch.cuda.empty_cache()
    return best * size[0] * size[1]


def _best_of(images: list[NDArray[np.uint8]], compute: Callable[[Sequence[NDArray[np.uint8]]], Any]) -> float:
    compute(images)  # cuDNN chooses its algorithms in the first call
    times = []
    for _ in range(3):
        start = time.perf_counter()
        compute(images)
        times.append(time.perf_counter() - start)
    return min(times)
