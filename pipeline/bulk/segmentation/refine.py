"""The dense CRF of a predicted image."""

import time
from typing import NamedTuple

from numpy.typing import NDArray

from pipeline.bulk.fetch import Failure, Fetched, StageError
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.crf.score_map import crf_of_scores
from pipeline.data.images import from_upright


class Refined(NamedTuple):
    """Labels after the CRF, [height, width] on the stored pixels, and the milliseconds that it took."""

    labels: NDArray
    milliseconds: float


def refine(fetched: Fetched, scores: NDArray, *, stride: int, config: SegmentConfig) -> Refined:
    """Refine the labels of an image by the dense CRF.

    Args:
        fetched: The image with its pixels.
        scores: Score map, float16 [classes, h, w].
        stride: Stride of the score map.
        config: Configuration of the run.

    Raises:
        StageError: The CRF failed.
    """
    assert fetched.pixels is not None
    start = time.perf_counter()
    try:
        refined = crf_of_scores(fetched.pixels, scores, stride=stride, params=config.crf_params, mode=config.crf_mode)
    except Exception as error:  # whatever it is, it belongs to this image
        raise StageError(Failure.of("crf", error)) from error
    labels = from_upright(refined.labels, fetched.orientation)
    return Refined(labels, 1000 * (time.perf_counter() - start))
