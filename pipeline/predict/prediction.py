"""What a segmentation network says of an image. Imports no PyTorch: processes without it read predictions too."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Prediction(NamedTuple):
    """A network's output for an image.

    Attributes:
        labels: Class with the largest score, uint8 (uint16 for more than 256 classes) [height, width].
        confidence: Mean over the score map of the largest softmax probability, 0..1.
        entropy: Mean over the score map of the softmax entropy in nats, 0..log(classes).
        scores: Logits minus the largest one of each pixel, float16 [classes, ceil(height / stride),
            ceil(width / stride)]; None unless the segmenter keeps scores.
        stride: Stride of the score map.
        refined: Labels after a dense CRF, of the type and shape of `labels`; None unless the segmenter refines them.
        crf_ms: Milliseconds that the CRF took.
        pixels: Pixels of an image whose scores are left to a CRF on the CPU; otherwise None.
    """

    labels: NDArray
    confidence: float
    entropy: float
    scores: NDArray[np.float16] | None
    stride: int
    refined: NDArray | None = None
    crf_ms: float | None = None
    pixels: NDArray[np.uint8] | None = None
