"""Boxes that may hold an object: selective search, by OpenCV's contributed modules (the extra `proposals`).

Uijlings, van de Sande, Gevers & Smeulders, "Selective Search for Object Recognition", IJCV 2013.
"""

import ctypes
import threading
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

_LOCK = threading.Lock()  # OpenCV ranks by C's `rand()`, which all threads share


def selective_search(
    pixels: NDArray[np.uint8], *, mode: Literal["fast", "quality"] = "fast", seed: int = 1
) -> NDArray[np.int32]:
    """Proposal boxes, the most object-like first.

    Args:
        pixels: uint8 RGB [height, width, 3].
        mode: "fast" (one to two thousand boxes on a photograph) or "quality" (some times more of both).
        seed: OpenCV ranks by C's `rand()`, which is seeded here, so that an image always has the same boxes; threads
            wait for each other.

    Returns:
        int32 [boxes, 4], each left, top, right, bottom in pixels, the latter two exclusive; at least the whole image.

    Raises:
        UserError: OpenCV's contributed modules are not installed.
    """
    try:
        from cv2.ximgproc import segmentation
    except ImportError:
        raise UserError("proposals need OpenCV's contributed modules: pip install 'segpipe[proposals]'") from None
    height, width = pixels.shape[:2]
    whole = np.array([[0, 0, width, height]], np.int32)
    if min(height, width) < 2:
        return whole
    search = segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(pixels[..., ::-1]))  # OpenCV's order is BGR
    (search.switchToSelectiveSearchFast if mode == "fast" else search.switchToSelectiveSearchQuality)()
    with _LOCK:
        ctypes.CDLL(None).srand(seed)
        found = np.asarray(search.process(), np.int32).reshape(-1, 4)
    found[:, 2:] += found[:, :2]  # x, y, width, height -> left, top, right, bottom
    return found if len(found) else whole
