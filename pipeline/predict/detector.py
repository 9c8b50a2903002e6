"""A detector on a device: the objects in images, as boxes with classes and scores."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.preprocessing import DetectorInput, DType, Preprocessing
from pipeline.models.detection.boxes import Selection
from pipeline.models.detection.detector import DetectionNetwork
from pipeline.predict.device import NotFiniteError, autocast, normalise, place, upload


class Detections(NamedTuple):
    """The objects found in an image, those with the highest scores first.

    Attributes:
        boxes: Left, top, right, bottom in pixels of the image, right and bottom exclusive, float32 [n, 4].
        labels: Classes, int64 [n].
        scores: Confidences, float32 [n].
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]


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
        self.preprocessing = preprocessing
        self.device = device
        self.dtype = dtype
        self.selection = selection

    @torch.inference_mode()
    def __call__(
        self, images: Sequence[NDArray[np.uint8]], proposals: Sequence[NDArray[np.float32]] | None = None
    ) -> list[Detections]:
        """Find the objects in images, uint8 [height, width, 3].

        Args:
            images: The images. Batches of images of one size give the same results as single images.
            proposals: Proposals of each image, as `data.proposals.propose` returns them, if the detector takes them.

        Raises:
            NotFiniteError: Scores or boxes of an image are not finite.
        """
        batch = [normalise(upload([pixels], self.device), self.preprocessing)[0] for pixels in images]
        regions = None if proposals is None else [torch.from_numpy(boxes).to(self.device) for boxes in proposals]
        with autocast(self.device, self.dtype):
            outputs = self.model.detect(batch, regions, selection=self.selection)
        found = []
        for boxes, labels, scores in outputs:
            if not bool(torch.isfinite(boxes).all() & torch.isfinite(scores).all()):
                raise NotFiniteError("the network's scores are not finite")
            found.append(Detections(boxes.float().cpu().numpy(), labels.cpu().numpy(), scores.float().cpu().numpy()))
        return found
