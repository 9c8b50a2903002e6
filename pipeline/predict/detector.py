"""A detector on a device: the objects in images, as boxes with classes and scores."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.preprocessing import DetectorInput, DType, Preprocessing
from pipeline.models.detection.boxes import Selection, candidates, select
from pipeline.models.detection.detector import DetectionNetwork
from pipeline.predict.batches import micro_batches
from pipeline.predict.device import Normalisation, NotFiniteError, autocast, place, upload
from pipeline.predict.fitting import FittingBatches


class Detections(NamedTuple):
    """The objects found in an image, those with the highest scores first.

    Attributes:
        boxes: Left, top, right, bottom in pixels of the image, right and bottom exclusive, float32 [n, 4].
        labels: Classes, int64 [n].
        scores: Confidences, float32 [n].
        candidates: Number of boxes with a sufficient score before non-maximum suppression, over all classes; with
            torchvision's detectors, after their own.
        select_ms: Milliseconds of the choice among the scored boxes.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    candidates: int
    select_ms: float


class Detector:
    """Finds objects in images of any sizes.

    Args:
        model: Network in eval mode; it is moved to the device.
        detector_input: What the network takes besides images.
        preprocessing: Normalisation of the input.
        device: Device to run on.
        dtype: "float32", or "bfloat16" or "float16" for autocast.
        selection: Choice of the detections; the network's own by default.
    """

    def __init__(
        self,
        model: DetectionNetwork,
        *,
        detector_input: DetectorInput,
        preprocessing: Preprocessing,
        device: torch.device,
        dtype: DType = "float32",
        selection: Selection | None = None,
    ):
        self.model: DetectionNetwork = place(model, device)
        self.detector_input = detector_input
        self._normalise = Normalisation(preprocessing, device)
        self.device = device
        self.dtype = dtype
        self._fit = FittingBatches()
        self.selection = selection

    @torch.inference_mode()
    def __call__(
        self, images: Sequence[NDArray[np.uint8]], proposals: Sequence[NDArray[np.float32]] | None = None
    ) -> list[Detections]:
        """Find the objects in images, uint8 [height, width, 3].

        Images of one shape are computed together, or in parts if they do not fit the GPU's memory. The network pads no
        image to the size of another, so the detections in an image do not depend on the other images.

        Args:
            images: The images.
            proposals: Proposals of each image, as `data.proposals.propose` returns them, if the detector takes them.

        Raises:
            NotFiniteError: Scores or boxes of an image are not finite.
            torch.OutOfMemoryError: An image does not fit alone.
        """
        found: dict[int, Detections] = {}

        def detect(members: Sequence[int]) -> list[Detections]:
            regions = None if proposals is None else [proposals[i] for i in members]
            return list(self._of_one_shape([images[i] for i in members], regions))

        for members in micro_batches([pixels.shape for pixels in images], max_pixels=sys.maxsize):
            height, width = images[members[0]].shape[:2]
            found |= zip(members, self._fit(detect, members, pixels=height * width), strict=True)
        return [found[i] for i in range(len(images))]

    def _of_one_shape(
        self, images: Sequence[NDArray[np.uint8]], proposals: Sequence[NDArray[np.float32]] | None
    ) -> Iterator[Detections]:
        batch = list(self._normalise(upload(images, self.device)))
        regions = None if proposals is None else [torch.from_numpy(boxes).to(self.device) for boxes in proposals]
        selection = self.selection or self.model.default_selection  # which changes once SVMs are fitted
        with autocast(self.device, self.dtype):
            outputs = self.model.score_boxes(batch, regions)
        for scored, scores in outputs:
            # Before the choice: a score that is not a number exceeds no threshold.
            if not bool(torch.isfinite(scored).all() & torch.isfinite(scores).all()):
                raise NotFiniteError("the network's scores or boxes are not finite")
            start = time.perf_counter()
            count = int(candidates(scored, scores, selection).sum())
            boxes, labels, kept = (column.cpu() for column in select(scored, scores, selection))
            milliseconds = 1000 * (time.perf_counter() - start)
            yield Detections(boxes.float().numpy(), labels.numpy(), kept.float().numpy(), count, milliseconds)
