"""Object proposals by selective search, from OpenCV's contributed modules (the extra `proposals`).

Uijlings, van de Sande, Gevers & Smeulders, "Selective Search for Object Recognition", IJCV 2013.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.images import resize
from pipeline.data.preprocessing import ProposalOptions
from pipeline.errors import UserError


def require_search() -> Any:
    """Return OpenCV's module of selective search.

    Raises:
        UserError: OpenCV's contributed modules are not installed.
    """
    try:
        from cv2.ximgproc import segmentation
    except ImportError:
        raise UserError("proposals need OpenCV's contributed modules: pip install 'segpipe[proposals]'") from None
    return segmentation


def propose(pixels: NDArray[np.uint8], options: ProposalOptions) -> NDArray[np.float32]:
    """Return the proposals of an image, found on a reduced copy if the image is large, the most object-like first.

    Args:
        pixels: RGB image, uint8 [height, width, 3].
        options: Options of the search.

    Returns:
        float32 [boxes, 4] of left, top, right, bottom in pixels of the image, with right and bottom exclusive.

    Raises:
        UserError: OpenCV's contributed modules are not installed.
    """
    height, width = pixels.shape[:2]
    factor = min(options.longest_side / max(height, width), 1.0)
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    reduced = pixels if factor == 1 else resize(pixels, size)
    boxes = selective_search(reduced, mode=options.mode)[: options.limit].astype(np.float32)
    return boxes * np.array([width / size[1], height / size[0]] * 2, np.float32)


def selective_search(
    pixels: NDArray[np.uint8], *, mode: Literal["fast", "quality"] = "fast", seed: int = 1
) -> NDArray[np.int32]:
    """Return proposal boxes, the most object-like first.

    The paper orders boxes by their place in the hierarchy, from the whole image down, times a random number (section
    3.3). OpenCV draws that number by C's `rand()`, whose state all threads of a process share, those of Ray included,
    so its order cannot be reproduced. Here the boxes are ordered by their place among all boxes by area, times a random
    number of our own.

    Args:
        pixels: RGB image, uint8 [height, width, 3].
        mode: "fast" (one to two thousand boxes on a photograph) or "quality" (several times more boxes and time).
        seed: Seed of the order.

    Returns:
        int32 [boxes, 4] of left, top, right, bottom in pixels, with right and bottom exclusive. If nothing is found,
        the only box is the whole image.

    Raises:
        UserError: OpenCV's contributed modules are not installed.
    """
    segmentation = require_search()
    height, width = pixels.shape[:2]
    whole = np.array([[0, 0, width, height]], np.int32)
    if min(height, width) < 2:
        return whole
    search = segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(pixels[..., ::-1]))  # OpenCV expects BGR
    (search.switchToSelectiveSearchFast if mode == "fast" else search.switchToSelectiveSearchQuality)()
    found = np.asarray(search.process(), np.int32).reshape(-1, 4)
    if len(found) == 0:
        return whole
    areas = found[:, 2].astype(np.int64) * found[:, 3]
    found = found[np.lexsort((*found.T, -areas))]
    places = np.arange(1, len(found) + 1) * np.random.default_rng(seed).random(len(found))
    found = found[np.argsort(places, kind="stable")]
    found[:, 2:] += found[:, :2]  # x, y, width, height -> left, top, right, bottom
    return found
