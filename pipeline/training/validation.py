"""A network's confusion matrix over a validation set: every sample once, whole, at its own size."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.classes import Classes
from pipeline.datasets import BadLabelError, Sample, SampleError, read_sample
from pipeline.errors import UserError
from pipeline.inference import Segmenter, micro_batches
from pipeline.metrics import Confusion, confusion

WINDOW = 32  # samples decoded at a time
THREADS = 8
MAX_PIXELS = 1_000_000  # of a micro-batch; networks at full resolution keep kilobytes a pixel

Decoded = tuple[NDArray[np.uint8], NDArray[np.int32]]


class ImageScore(NamedTuple):
    """Scores of one image: `miou` over the classes in its ground truth or prediction; NaN without labelled pixels."""

    key: str
    miou: float
    pixel_accuracy: float


class Validated(NamedTuple):
    """What a network makes of a validation set, or of a worker's share.

    Attributes:
        confusion: over all pixels.
        images: each image's scores.
        unread: a line for each sample that could not be read.
        seconds: that it took.
    """

    confusion: Confusion
    images: list[ImageScore]
    unread: list[str]
    seconds: float = 0.0


def validate(segmenter: Segmenter, samples: Sequence[Sample], classes: Classes) -> Validated:
    """Segment samples and count.

    Args:
        segmenter: its model is left in eval mode.
        samples: this worker's share; nothing is padded or seen twice, so shares add up exactly.
        classes: of the data set.

    Raises:
        UserError: a label map contradicts its image or the class file.
    """
    segmenter.model.eval()
    total = Confusion.zeros(len(classes))
    unread: list[str] = []
    scored: list[ImageScore] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(samples), WINDOW):
            window = samples[start : start + WINDOW]
            results = list(pool.map(lambda s: _read(s, classes), window))
            unread += [r for r in results if isinstance(r, str)]
            keys = [s.key for s, r in zip(window, results, strict=True) if not isinstance(r, str)]
            decoded = [r for r in results if not isinstance(r, str)]
            for batch in micro_batches([pixels.shape for pixels, _ in decoded], max_pixels=MAX_PIXELS):
                predictions = segmenter([decoded[i][0] for i in batch])
                for i, prediction in zip(batch, predictions, strict=True):
                    counts = confusion(
                        decoded[i][1],
                        prediction.labels,
                        num_classes=len(classes),
                        ignore_index=classes.ignore_index,
                    )
                    total += counts
                    scored.append(ImageScore(keys[i], counts.scores.miou, counts.scores.pixel_accuracy))
    return Validated(total, scored, unread)


def _read(sample: Sample, classes: Classes) -> Decoded | str:
    try:
        return read_sample(sample, classes)
    except BadLabelError as error:
        raise UserError(f"{error}. Check the data set with jobs/validate.py") from None
    except SampleError as error:
        return str(error)
