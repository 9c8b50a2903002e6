"""Losses of a network's scores against label maps. torch, and scipy for distances."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.layers import SegmentationOutput
from pipeline.models.upsampling import upsample
from pipeline.training.config import Loss


def segmentation_loss(
    output: SegmentationOutput,
    labels: Tensor,
    *,
    ignore_index: int,
    stride: int,
    auxiliary_weight: float,
    loss: Loss | None = None,
) -> Tensor:
    """The loss of a batch at full resolution, plus weighted auxiliary outputs.

    Args:
        output: of the network in train mode.
        labels: int64 [batch, height, width].
        ignore_index: label that counts nowhere; a batch of nothing else gives 0, not NaN.
        stride: the network's output stride.
        auxiliary_weight: of each auxiliary output's loss.
        loss: which; cross-entropy by default.
    """
    loss = loss or Loss()
    size = (labels.shape[-2], labels.shape[-1])
    weights = None
    if loss.kind == "border_weighted":
        maps = [_border_weights(image, ignore_index, loss) for image in labels.cpu().numpy()]
        weights = torch.from_numpy(np.stack(maps)).to(labels.device)

    def of(full: Tensor) -> Tensor:
        if loss.kind == "bootstrapped":
            return bootstrapped_cross_entropy(full, labels, ignore_index=ignore_index, worst_pixels=loss.worst_pixels)
        return cross_entropy(full, labels, ignore_index=ignore_index, weights=weights)

    total = of(upsample(output.logits, size, stride=stride))
    for logits in output.auxiliary:
        total = total + auxiliary_weight * of(upsample(logits, size, stride=stride))
    return total


def cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int, weights: Tensor | None = None) -> Tensor:
    """The mean over all labelled pixels of a batch of -log p of the pixel's class, each times its weight.

    Args:
        logits: [batch, classes, height, width].
        labels: int64 [batch, height, width].
        ignore_index: label that counts nowhere.
        weights: float32 [batch, height, width].
    """
    each = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="none")
    labelled = (labels != ignore_index).sum().clamp(min=1)
    return (each if weights is None else each * weights).sum() / labelled


def bootstrapped_cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int, worst_pixels: int) -> Tensor:
    """The mean over the pixels of largest loss in each image, and over the images.

    FRRN (Pohlen et al. 2017, section 4.2; Wu et al. 2016): 512 x 64 pixels an image. Void pixels have loss 0.

    Args:
        logits: [batch, classes, height, width].
        labels: int64 [batch, height, width].
        ignore_index: label that counts nowhere.
        worst_pixels: how many of an image count; all, if it has fewer.
    """
    each = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="none").flatten(1)
    return each.topk(min(worst_pixels, each.shape[1]), dim=1, sorted=False).values.mean()


def _border_weights(labels: NDArray[np.int64], ignore_index: int, loss: Loss) -> NDArray[np.float32]:
    return border_weights(
        labels,
        ignore_index=ignore_index,
        background=loss.background,
        amplitude=loss.border_weight,
        sigma=loss.border_sigma,
    )


def border_weights(
    labels: NDArray[np.int64], *, ignore_index: int, background: int = 0, amplitude: float = 10.0, sigma: float = 5.0
) -> NDArray[np.float32]:
    """U-Net's weight map (Ronneberger et al. 2015, equation 2): 1 + w0 exp(-(d1 + d2)² / 2 σ²) on the background,
    with the distances to the nearest and the second nearest object; 1 elsewhere.

    Objects are the connected parts of one class, so those that touch need a background line between them, as the
    paper's data has.

    Args:
        labels: [height, width].
        ignore_index: label that is neither object nor background.
        background: the class that lies between objects.
        amplitude: w0.
        sigma: σ in pixels.
    """
    nearest = np.full(labels.shape, np.inf)
    second = nearest.copy()
    for label in np.unique(labels):
        if label in (background, ignore_index):
            continue
        objects, count = ndimage.label(labels == label)
        for i in range(1, count + 1):
            distance = ndimage.distance_transform_edt(objects != i)
            second = np.minimum(second, np.maximum(nearest, distance))
            nearest = np.minimum(nearest, distance)
    gap = amplitude * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return (1 + np.where(labels == background, gap, 0)).astype(np.float32)
