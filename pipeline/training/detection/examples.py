"""Training examples of a detector: changed images with their boxes and proposals. Imports no PyTorch."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.data.datasets import SampleError, read_image
from pipeline.data.transforms.boxes import BoxedImage, augment_boxes
from pipeline.training.detection.config import TrainDetectorConfig
from pipeline.training.detection.survey import surveyed
from pipeline.training.examples import Example, Examples, draw_all, first_usable, mean_colour, permutation


class BoxLabels(NamedTuple):
    """What is known of an image, as arrays or tensors.

    Attributes:
        boxes: Boxes of the objects to be learnt, float32 [n, 4].
        labels: Their classes, int64 [n].
        proposals: Proposals, float32 [m, 4]; none if the detector takes none.
        seed: Seed of the randomness with which the detector samples regions, int64 [3].
    """

    boxes: Any
    labels: Any
    proposals: Any
    seed: Any


class DrawBoxes:
    """Draws changed images; see `training.examples.Draw`. The table is that of a survey.

    Difficult objects and crowds are not learnt, as in the released code of Fast R-CNN and YOLO.

    Args:
        config: Configuration of the run.
    """

    def __init__(self, config: TrainDetectorConfig):
        self.augmentation = config.augmentation
        self.fill = mean_colour(config.preprocessing)
        self.seed = config.seed

    def __call__(self, table: pa.Table, epoch: int, positions: range) -> Examples:
        """Draw the images at some positions of an epoch.

        Raises:
            UserError: No image can be used.
        """
        return draw_all(
            lambda position, skipped: self._draw(table, epoch, position, skipped), table, positions, stacked=False
        )

    def _draw(self, table: pa.Table, epoch: int, position: int, skipped: dict[str, None]) -> Example:
        passes, place = divmod(position, table.num_rows)
        order = permutation(self.seed, epoch, passes, table.num_rows)
        image, key = first_usable(order, place, lambda index: read_boxed(table, index), skipped)
        seed = [self.seed, epoch, position]
        drawn = augment_boxes(image, settings=self.augmentation, fill=self.fill, rng=np.random.default_rng(seed))
        return drawn.pixels, BoxLabels(*drawn[1:], np.array(seed, np.int64)), key


def read_boxed(table: pa.Table, index: int) -> tuple[BoxedImage, str]:
    """Read an image of a survey with the boxes to be learnt, and its key.

    Raises:
        SampleError: It is missing, unreadable, damaged, or of another size than in the survey.
    """
    row = surveyed(table, index)
    if row.error is not None:
        raise SampleError(row.error)
    pixels = read_image(row.image).pixels
    if pixels.shape[:2] != row.size:
        found, expected = ("x".join(map(str, size[::-1])) for size in (pixels.shape[:2], row.size))
        raise SampleError(f"{row.image}: {found}, but it was {expected} when the run began")
    learnt = ~(row.difficult | row.crowd)
    return BoxedImage(pixels, row.boxes[learnt], row.labels[learnt], row.proposals), row.key
