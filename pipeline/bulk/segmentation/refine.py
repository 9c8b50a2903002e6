"""The dense CRF of a predicted image, on the CPU unless the predictor has refined it."""

import time
from typing import NamedTuple

from numpy.typing import NDArray

from pipeline.bulk.fetch import Failure, Fetched, StageError
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.data.images import from_upright
from pipeline.predict.prediction import Prediction


class Refined(NamedTuple):
    """Labels after the CRF, [height, width] on the stored pixels, and the milliseconds that it took."""

    labels: NDArray
    milliseconds: float


def refine(fetched: Fetched, result: Prediction, config: SegmentConfig) -> Refined:
    """Return the labels of an image after the dense CRF.

    Args:
        fetched: The image, with its pixels if the prediction has none.
        result: Its prediction: either refined, or with the scores.
        config: Configuration of the run.

    Raises:
        StageError: The CRF failed.
    """
    if result.refined is not None and result.crf_ms is not None:
        return Refined(from_upright(result.refined, fetched.orientation), result.crf_ms)
    from pipeline.crf.score_map import crf_of_scores

    pixels = fetched.pixels if result.pixels is None else result.pixels
    assert pixels is not None
    assert result.scores is not None
    start = time.perf_counter()
    try:
        refined = crf_of_scores(
            pixels, result.scores, stride=result.stride, params=config.crf_params, mode=config.crf_mode
        )
    except Exception as error:  # whatever it is, it belongs to this image
        raise StageError(Failure.of("crf", error)) from error
    labels = from_upright(refined.labels, fetched.orientation)
    return Refined(labels, 1000 * (time.perf_counter() - start))
