"""A classifier on a device: class probabilities and class activation maps of images.

The maps take no backward pass and no further forward pass: they are the features before the global pooling, which every
classifier here returns, weighted by the weights of each class (see `pipeline.cam.activation`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.cam import activation
from pipeline.data.preprocessing import ClassifierInput, DType, Preprocessing
from pipeline.predict.device import Normalisation, NotFiniteError, autocast, place, upload
from pipeline.predict.fitting import FittingBatches


@dataclass(frozen=True)
class Classification:
    """A classifier's output for an image, from one forward pass for each scale and mirroring of the input.

    Attributes:
        logits: Mean over the passes, float32 [classes].
        probabilities: Softmax or sigmoid of the logits, float32 [classes].
        features: Input of the global pooling in each pass, float32 [channels, h, w].
        flipped: Whether the input of each pass was mirrored.
        weights: Weights of the last layer, float32 [classes, channels].
    """

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    features: tuple[NDArray[np.float32], ...]
    flipped: tuple[bool, ...]
    weights: NDArray[np.float32]

    def maps(self, classes: Sequence[int]) -> NDArray[np.float32]:
        """Return the raw maps of some classes, [n, h, w], at the size of the first pass's features."""
        pass_maps = [activation.class_maps(features, self.weights, classes) for features in self.features]
        if self.flipped == (False,):
            return pass_maps[0]
        height, width = self.features[0].shape[1:]
        return activation.average(pass_maps, (height, width), flipped=self.flipped)


class Classifier:
    """Classifies images of the model's input size.

    Args:
        model: Network in eval mode; it is moved to the device.
        classifier_input: Input size of the model, and meaning of its scores.
        preprocessing: Normalisation of the input.
        device: Device to run on.
        dtype: "float32", or "bfloat16" or "float16" for autocast.
        scales: Scales of the input, with a forward pass for each. The first one determines the size of the maps.
        flip: Add a pass with the mirrored input for each scale.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        classifier_input: ClassifierInput,
        preprocessing: Preprocessing,
        device: torch.device,
        dtype: DType = "float32",
        scales: tuple[float, ...] = (1.0,),
        flip: bool = False,
    ):
        self.model = place(model, device)
        self.classifier_input = classifier_input
        self._normalise = Normalisation(preprocessing, device)
        self.device = device
        self.dtype = dtype
        self._fit = FittingBatches()
        self.passes = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Classification]:
        """Classify images, each uint8 [height, width, 3] of the size `classifier_input.size`.

        A batch that does not fit the GPU's memory is halved until it does, and later batches are no larger.

        Raises:
            NotFiniteError: The scores of an image are not finite.
            torch.OutOfMemoryError: An image does not fit alone.
        """
        height, width = self.classifier_input.size
        return self._fit(self._classify, images, pixels=height * width)

    def _classify(self, images: Sequence[NDArray[np.uint8]]) -> list[Classification]:
        batch = self._normalise(upload(images, self.device))
        outputs = [self._forward(batch, scale, mirrored) for scale, mirrored in self.passes]
        logits = torch.stack([logits for logits, _ in outputs]).mean(dim=0)
        if not bool(torch.isfinite(logits).all()):
            raise NotFiniteError("the network's scores are not finite")
        probabilities = logits.sigmoid() if self.classifier_input.multi_label else logits.softmax(dim=1)
        features = [features.cpu().numpy() for _, features in outputs]
        flipped = tuple(mirrored for _, mirrored in self.passes)
        weights = self.model.fc.weight.float().cpu().numpy()
        by_image = zip(logits.cpu().numpy(), probabilities.cpu().numpy(), zip(*features, strict=True), strict=True)
        return [Classification(*image_outputs, flipped, weights) for image_outputs in by_image]

    def _forward(self, batch: Tensor, scale: float, mirrored: bool) -> tuple[Tensor, Tensor]:
        """Return the float32 logits and features of a batch at a scale, mirrored or not."""
        if scale != 1.0:
            height, width = (max(1, round(side * scale)) for side in self.classifier_input.size)
            batch = F.interpolate(batch, (height, width), mode="bilinear", align_corners=False, antialias=scale < 1)
        with autocast(self.device, self.dtype):
            output = self.model(batch.flip(3) if mirrored else batch)
        return output.logits.float(), output.features.float()
