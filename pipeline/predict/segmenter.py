"""A segmentation network on a device: label maps of decoded images."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.data.preprocessing import DType, Instances, Preprocessing
from pipeline.data.proposals import selective_search
from pipeline.models.upsampling import upsample
from pipeline.predict.device import NotFiniteError, autocast, normalise, place
from pipeline.predict.instances import choose, instance_scores
from pipeline.predict.prediction import Prediction


class Segmenter:
    """Segments images with a network.

    Args:
        model: Network in eval mode; it is moved to the device.
        preprocessing: Normalisation of the input.
        device: Device to run on.
        dtype: "float32", or "bfloat16" or "float16" for autocast.
        instances: Options of instance-wise inference; None to segment whole images.
        keep_scores: Return the score maps as well.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        preprocessing: Preprocessing,
        device: torch.device,
        dtype: DType = "float32",
        instances: Instances | None = None,
        keep_scores: bool = False,
    ):
        self.model = place(model, device)
        self.preprocessing = preprocessing
        self.device = device
        self.dtype = dtype
        self.instances = instances or Instances()
        self.keep_scores = keep_scores

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Segment images of one shape, each uint8 [height, width, 3].

        A batch that does not fit the GPU's memory is halved until it does.

        Raises:
            NotFiniteError: The scores of an image are not finite.
            torch.OutOfMemoryError: A single image is too large for the device.
        """
        try:
            return self._forward(images)
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(images) // 2
        return self(images[:half]) + self(images[half:])

    def _forward(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        batch = torch.from_numpy(np.stack(images)).to(self.device)
        with autocast(self.device, self.dtype):
            logits, stride = self._scores(images, normalise(batch, self.preprocessing))
        log_p = torch.log_softmax(logits.float(), dim=1)
        p = log_p.exp()
        confidence = p.amax(dim=1).mean(dim=(1, 2))
        entropy = -(p * log_p).sum(dim=1).mean(dim=(1, 2))
        if not bool(torch.isfinite(entropy).all()):
            raise NotFiniteError("the network's scores are not finite")
        height, width = images[0].shape[:2]
        labels = self._argmax(logits, (height, width), stride).cpu().numpy()
        scores: Sequence[NDArray[np.float16] | None] = [None] * len(images)
        if self.keep_scores:  # a constant does not change the softmax, and float16 is most precise near 0
            scores = list((logits - logits.amax(dim=1, keepdim=True)).clamp(min=-1000).half().cpu().numpy())
        by_image = zip(labels, confidence.tolist(), entropy.tolist(), scores, strict=True)
        return [Prediction(*image_outputs, stride) for image_outputs in by_image]

    def _scores(self, images: Sequence[NDArray[np.uint8]], batch: Tensor) -> tuple[Tensor, int]:
        """Return the logits of a batch and their stride."""
        stride: int = self.model.output_stride
        if not self.instances.proposals:
            return self.model(batch).logits, stride

        def score(crops: Tensor) -> Tensor:
            return upsample(self.model(crops).logits, (crops.shape[-2], crops.shape[-1]), stride=stride)

        boxes = [choose(selective_search(pixels), self.instances) for pixels in images]
        return torch.stack([instance_scores(score, x, b) for x, b in zip(batch, boxes, strict=True)]), 1

    def _argmax(self, logits: Tensor, size: tuple[int, int], stride: int) -> Tensor:
        full = upsample(logits, size, stride=stride)
        return full.argmax(dim=1).to(torch.uint8 if logits.shape[1] <= 256 else torch.uint16)
