"""A network's confusion matrix over a validation set: every sample once, whole, at its own size."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.classes import Classes
from pipeline.data.datasets import BadLabelError, Sample, SampleError, read_sample
from pipeline.errors import UserError
from pipeline.metrics.segmentation import Confusion, confusion
from pipeline.predict.batches import micro_batches
from pipeline.predict.segmenter import Segmenter
from pipeline.training import distributed

WINDOW = 32  # samples decoded at a time
THREADS = 8
MAX_PIXELS = 1_000_000  # of a micro-batch; networks at full resolution keep kilobytes a pixel

Decoded = tuple[NDArray[np.uint8], NDArray[np.int32]]


class ImageScore(NamedTuple):
    """Scores of one image: `miou` over the classes in its ground truth or prediction; NaN without labelled pixels."""

    key: str
    miou: float
    pixel_accuracy: float


@dataclass
class SegmentationValidation:
    """See `task.Validated`: the confusion over all pixels, and each image's scores."""

    counts: Confusion
    images: list[ImageScore]
    unread: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [image._asdict() for image in self.images]

    @property
    def confusion(self) -> NDArray:
        return self.counts.matrix

    def over_workers(self, device: torch.device) -> "SegmentationValidation":
        counts = distributed.summed_confusion(self.counts, device)
        if counts.matrix.sum() == 0:
            raise UserError("the validation set has no labelled pixel; check it with jobs/validate.py")
        return SegmentationValidation(counts, distributed.gathered(self.images), self.unread)

    def record(self, classes: Classes) -> dict[str, Any]:
        scores = self.counts.scores
        pairs = zip(classes.names, scores.iou.tolist(), strict=True)
        return {
            "miou": scores.miou,
            "miou_gt_only": scores.miou_gt_only,
            "pixel_accuracy": scores.pixel_accuracy,
            # JSON has no NaN: None for a class that is nowhere.
            "iou": {name: None if math.isnan(iou) else iou for name, iou in pairs},
        }


def validate(segmenter: Segmenter, samples: Sequence[Sample], classes: Classes) -> SegmentationValidation:
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
    return SegmentationValidation(total, scored, unread)


def _read(sample: Sample, classes: Classes) -> Decoded | str:
    try:
        return read_sample(sample, classes)
    except BadLabelError as error:
        raise UserError(f"{error}. Check the data set with jobs/validate.py") from None
    except SampleError as error:
        return str(error)
