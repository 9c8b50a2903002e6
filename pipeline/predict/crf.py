"""The dense CRF in a predictor's process, on its device."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.crf.params import CRFParams, Mode
from pipeline.predict.prediction import Prediction


class DeviceCRF:
    """Refines predicted labels on the device of the network.

    An image that does not fit the device's memory, or that the CRF refuses, is left to the CPU, with its scores and
    pixels: the CPU refines it, or gives the reason for its error row.

    Args:
        params: Parameters of the CRF.
        mode: See `crf.params.Mode`.
    """

    def __init__(self, *, params: CRFParams, mode: Mode):
        self._options: dict[str, Any] = {"params": params, "mode": mode}
        self._has_told = False

    def of_batch(
        self, predictions: Sequence[Prediction], images: Sequence[NDArray[np.uint8]], pixels: Tensor, scores: Tensor
    ) -> list[Prediction]:
        """Refine the predictions of a batch whose pixels and scores are on the device.

        Args:
            predictions: Predictions without a CRF.
            images: Images on the host, uint8 [height, width, 3].
            pixels: The images on the device, uint8 [images, height, width, 3].
            scores: Their score maps on the device, float16 [images, classes, h, w].
        """
        from pipeline.crf.gpu import refine_batch

        dtype = torch.from_numpy(predictions[0].labels[:0]).dtype

        def refine() -> NDArray:
            labels = refine_batch(pixels, scores, stride=predictions[0].stride, **self._options)
            return labels.to(dtype).cpu().numpy()

        start = time.perf_counter()
        labels = self._attempt(refine, is_single=len(images) == 1)
        each = 1000 * (time.perf_counter() - start) / len(images)
        if labels is not None:
            return [one._replace(refined=r, crf_ms=each) for one, r in zip(predictions, labels, strict=True)]
        if len(images) == 1:
            return [predictions[0]._replace(scores=scores[0].cpu().numpy(), pixels=images[0])]
        singles = (slice(i, i + 1) for i in range(len(images)))
        return [one for i in singles for one in self.of_batch(predictions[i], images[i], pixels[i], scores[i])]

    def of_large_image(self, prediction: Prediction, image: NDArray[np.uint8], device: torch.device) -> Prediction:
        """Refine the prediction of an image whose scores have been collected on the host, tile by tile.

        Args:
            prediction: Prediction with its scores.
            image: Image on the host, uint8 [height, width, 3].
            device: Device to run on.
        """
        from pipeline.crf.gpu import crf_of_scores

        scores = prediction.scores
        assert scores is not None

        def refine() -> NDArray:
            return crf_of_scores(image, scores, stride=prediction.stride, device=device, **self._options).labels

        start = time.perf_counter()
        labels = self._attempt(refine, is_single=True)
        each = 1000 * (time.perf_counter() - start)
        if labels is None:
            return prediction._replace(pixels=image)
        return prediction._replace(scores=None, refined=labels.astype(prediction.labels.dtype), crf_ms=each)

    def _attempt(self, refine: Callable[[], NDArray], *, is_single: bool) -> NDArray | None:
        """Return refined labels; None if there is no memory for them, or if an image is refused."""
        try:
            return refine()
        except ValueError:
            return None
        except torch.OutOfMemoryError:
            pass
        torch.cuda.empty_cache()  # here, because the exception holds on to the tensors of its stack frames
        if is_single and not self._has_told:
            self._has_told = True
            print("a dense CRF does not fit the GPU's memory: the CPU refines such images", file=sys.stderr, flush=True)
        return None
