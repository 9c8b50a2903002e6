"""What helper processes make of an image for a detector, and what the predictor returns for it."""

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.bulk.fetch import Failure, StageError
from pipeline.data.images import resize
from pipeline.data.preprocessing import ProposalOptions
from pipeline.data.proposals import propose
from pipeline.errors import UserError

PROPOSE = "propose"  # stage of the error row of an image whose proposals cannot be computed


class PreparedImage(NamedTuple):
    """An image as a detector takes it.

    Attributes:
        pixels: Upright image, reduced if it is large, uint8 [height, width, 3].
        proposals: Proposals in its pixels, float32 [n, 4]; None if the detector takes none.
        propose_ms: Milliseconds that they took; None if there are none.
    """

    pixels: NDArray[np.uint8]
    proposals: NDArray[np.float32] | None
    propose_ms: float | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the pixels."""
        return self.pixels.shape


class Detected(NamedTuple):
    """The detections in an image, and how they came about.

    Attributes:
        size: Height and width of the image that the detector saw.
        boxes: Boxes in its pixels, those with the highest scores first, float32 [n, 4].
        labels: Classes, int64 [n].
        scores: Confidences, float32 [n].
        candidates: Number of boxes before non-maximum suppression.
        select_ms: Milliseconds of the choice among the scored boxes.
        proposed: Number of proposals; None if the detector takes none.
        propose_ms: Milliseconds that the proposals took; None if the detector takes none.
        proposals: The proposals, if they are compared with true boxes.
    """

    size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    candidates: int
    select_ms: float
    proposed: int | None
    propose_ms: float | None
    proposals: NDArray[np.float32] | None


def prepare_image(pixels: NDArray[np.uint8], *, longest_side: int, proposals: ProposalOptions | None) -> PreparedImage:
    """Reduce a large image, and compute its proposals.

    Args:
        pixels: Upright image, uint8 [height, width, 3].
        longest_side: Largest long side, in pixels.
        proposals: Options of the proposals; None if the detector takes none.

    Raises:
        StageError: The proposals cannot be computed.
        UserError: OpenCV's contributed modules are not installed.
    """
    height, width = pixels.shape[:2]
    factor = min(longest_side / max(height, width), 1.0)
    reduced = resize(pixels, (max(round(height * factor), 1), max(round(width * factor), 1)))
    if proposals is None:
        return PreparedImage(reduced, None, None)
    start = time.perf_counter()
    try:
        boxes = propose(reduced, proposals)
    except UserError:
        raise
    except Exception as error:  # whatever OpenCV raises belongs to this image
        raise StageError(Failure.of(PROPOSE, error)) from error
    return PreparedImage(reduced, boxes, 1000 * (time.perf_counter() - start))
