"""The validation of a segmentation network: every sample counts once, as a whole, at its own size."""

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
MAX_PIXELS = 1_000_000  # pixels of a micro-batch; networks at full resolution take kilobytes per pixel

Decoded = tuple[NDArray[np.uint8], NDArray[np.int32]]


class ImageScore(NamedTuple):
    """The scores of an image; NaN if it has no labelled pixel.

    Attributes:
        key: Key of the image.
        miou: Mean IoU over the classes in its ground truth or prediction.
        pixel_accuracy: Share of the labelled pixels that are predicted correctly.
    """

    key: str
    miou: float
    pixel_accuracy: float


@dataclass
class SegmentationValidation:
    """Scores of some validation images; see `task.Validated`.

    Attributes:
        counts: Confusion over all pixels.
        images: Scores of each image.
        unread: A line for each image that could not be read.
    """

    counts: Confusion
    images: list[ImageScore]
    unread: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A dict per image with the fields of `ImageScore`."""
        return [image._asdict() for image in self.images]

    @property
    def confusion(self) -> NDArray:
        """int64 [classes, classes], row truth, column prediction."""
        return self.counts.matrix

    def over_workers(self, device: torch.device) -> "SegmentationValidation":
        """Return the validation over the shares of all workers.

        Raises:
            UserError: No validation image has a labelled pixel.
        """
        counts = distributed.sum_confusion(self.counts, device)
        if counts.matrix.sum() == 0:
            problem = f"; the first problem: {self.unread[0]}" if self.unread else ""
            raise UserError(f"no pixel of --val.labels is labelled; check them with segpipe validate{problem}")
        return SegmentationValidation(counts, distributed.concatenate_lists(self.images), self.unread)

    def record(self, classes: Classes) -> dict[str, Any]:
        """Return the scores under the keys of `SegmentationTask.measures`."""
        scores = self.counts.scores
        pairs = zip(classes.names, scores.iou.tolist(), strict=True)
        return {
            "miou": scores.miou,
            "miou_gt_only": scores.miou_gt_only,
            "pixel_accuracy": scores.pixel_accuracy,
            # None if the class is in neither ground truth nor prediction, because JSON has no NaN.
            "iou": {name: None if math.isnan(iou) else iou for name, iou in pairs},
        }


def validate(segmenter: Segmenter, samples: Sequence[Sample], classes: Classes) -> SegmentationValidation:
    """Segment samples and compare with their label maps.

    Args:
        segmenter: Its model is left in eval mode.
        samples: This worker's share; no sample is padded or counted twice, so the counts of all shares add up exactly.
        classes: Classes of the data set.

    Raises:
        UserError: A label map contradicts its image or the class file.
    """
    segmenter.model.eval()
    total = Confusion.zeros(len(classes))
    unread: list[str] = []
    images: list[ImageScore] = []
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
                    images.append(ImageScore(keys[i], counts.scores.miou, counts.scores.pixel_accuracy))
    return SegmentationValidation(total, images, unread)


def _read(sample: Sample, classes: Classes) -> Decoded | str:
    """Read a sample, or return the reason why it cannot be used."""
    try:
        return read_sample(sample, classes)
    except BadLabelError as error:
        raise UserError(f"{error}. Check the data set with segpipe validate") from None
    except SampleError as error:
        return str(error)
