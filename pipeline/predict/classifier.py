"""A classifier on a device: probabilities of images, and where their evidence lies. torch only; see also `inference`.

A class's map needs no backward pass and no second forward one: the features before the global pooling, which every
classifier of ours returns, weighted by the class's weights (see `cam`).
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
from pipeline.predict.device import NotFiniteError, autocast, normalise, place


@dataclass(frozen=True)
class Classification:
    """What a classifier says of an image.

    Attributes:
        logits: float32 [classes], the mean over showings.
        probabilities: float32 [classes], their softmax or sigmoid.
        features: float32 [channels, h, w], the input of the global pooling, for each showing of the image.
        flipped: which showings were mirrored.
        weights: float32 [classes, channels], of the last layer.
    """

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    features: tuple[NDArray[np.float32], ...]
    flipped: tuple[bool, ...]
    weights: NDArray[np.float32]

    def maps(self, classes: Sequence[int]) -> NDArray[np.float32]:
        """The raw maps of some classes, [n, h, w] at the size of the first showing's features."""
        of_showings = [activation.class_maps(features, self.weights, classes) for features in self.features]
        if self.flipped == (False,):
            return of_showings[0]
        height, width = self.features[0].shape[1:]
        return activation.average(of_showings, (height, width), flipped=self.flipped)


class Classifier:
    """Classifies images of the size that its card names.

    Args:
        model: in eval mode; moved to the device.
        classifier_input: how the model is shown images, and what its scores mean.
        preprocessing: the bundle's.
        device: where to run.
        dtype: "float32", or "bfloat16" or "float16" for autocast.
        scales: of the input, each a showing; the first gives the maps' size.
        flip: show each mirrored as well.
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
        self.preprocessing = preprocessing
        self.device = device
        self.dtype = dtype
        self.showings = [(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]

    @torch.inference_mode()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[Classification]:
        """Classify images, uint8 [height, width, 3] of `classifier_input.size`.

        Raises:
            NotFiniteError: the scores of one of the images are not finite.
        """
        batch = normalise(torch.from_numpy(np.stack(images)).to(self.device), self.preprocessing)
        outputs = [self._show(batch, scale, mirrored) for scale, mirrored in self.showings]
        logits = torch.stack([of_showing for of_showing, _ in outputs]).mean(dim=0)
        if not bool(torch.isfinite(logits).all()):
            raise NotFiniteError("the network's scores are not finite")
        probabilities = logits.sigmoid() if self.classifier_input.multi_label else logits.softmax(dim=1)
        features = [of_showing.cpu().numpy() for _, of_showing in outputs]
        flipped = tuple(mirrored for _, mirrored in self.showings)
        weights = self.model.fc.weight.float().cpu().numpy()
        each = zip(logits.cpu().numpy(), probabilities.cpu().numpy(), zip(*features, strict=True), strict=True)
        return [Classification(of_image, p, maps, flipped, weights) for of_image, p, maps in each]

    def _show(self, batch: Tensor, scale: float, mirrored: bool) -> tuple[Tensor, Tensor]:
        """float32 logits and features of a batch at a scale, from left to right or mirrored."""
        if scale != 1.0:
            height, width = (max(1, round(side * scale)) for side in self.classifier_input.size)
            batch = F.interpolate(batch, (height, width), mode="bilinear", align_corners=False, antialias=scale < 1)
        with autocast(self.device, self.dtype):
            output = self.model(batch.flip(3) if mirrored else batch)
        return output.logits.float(), output.features.float()
