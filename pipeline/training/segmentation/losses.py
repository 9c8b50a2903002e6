"""Losses of a network's scores against label maps. torch, and scipy for distances.

Pixelwise terms are sums over labelled pixels divided by their number (their weight, with class weights), the others
sums over images divided by theirs. Both divisors can be given: those of the whole batch, where a worker has a part of
it, so that the parts' losses add up to the whole's.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.layers import SegmentationOutput
from pipeline.models.upsampling import upsample
from pipeline.training.segmentation.config import LossTerm, SegmentationLoss


class LossTotals(NamedTuple):
    """What sums are divided by: scalars, `pixels` the summed class weight of labelled pixels, `images` their number."""

    pixels: Tensor
    images: Tensor


def loss_totals(labels: Tensor, *, ignore_index: int, class_weights: Tensor | None = None) -> LossTotals:
    """The divisors of a batch of labels, int64 [batch, height, width]; at least 1e-6, for a batch of ignored pixels."""
    labelled = labels != ignore_index
    if class_weights is None:
        pixels = labelled.sum().float()
    else:
        pixels = (class_weights[torch.where(labelled, labels, 0)] * labelled).sum()
    return LossTotals(pixels.clamp(min=1e-6), torch.tensor(float(len(labels)), device=labels.device))


def segmentation_loss(
    output: SegmentationOutput,
    labels: Tensor,
    *,
    ignore_index: int,
    stride: int,
    auxiliary_weight: float,
    loss: SegmentationLoss | None = None,
    class_weights: Tensor | None = None,
    divisors: LossTotals | None = None,
) -> Tensor:
    """The loss of a batch at full resolution, plus weighted auxiliary outputs.

    Args:
        output: of the network in train mode.
        labels: int64 [batch, height, width].
        ignore_index: label that counts nowhere; a batch of nothing else gives 0, not NaN.
        stride: the network's output stride.
        auxiliary_weight: of each auxiliary output's loss.
        loss: which; cross-entropy by default.
        class_weights: float [classes], of the pixelwise terms.
        divisors: of the batch that this one is a part of; its own by default.
    """
    loss = loss or SegmentationLoss()
    size = (labels.shape[-2], labels.shape[-1])
    by = divisors or loss_totals(labels, ignore_index=ignore_index, class_weights=class_weights)
    if loss.reduction == "sum":
        by = LossTotals(torch.ones_like(by.pixels), torch.ones_like(by.images))
    borders = torch.ones((), device=labels.device)
    if "border_weighted" in loss.terms:
        maps = [_border_weights(image, ignore_index, loss) for image in labels.cpu().numpy()]
        borders = torch.from_numpy(np.stack(maps)).to(labels.device)

    def value(term: LossTerm, logits: Tensor) -> Tensor:
        match term:
            case "cross_entropy" | "border_weighted" | "focal":
                each = pixel_losses(logits, labels, ignore_index=ignore_index, class_weights=class_weights)
                if term == "focal":
                    each = focal(each, logits, labels, gamma=loss.focal_gamma)
                elif term == "border_weighted":
                    each = each * borders
                return each.sum() / by.pixels
            case "bootstrapped":
                each = pixel_losses(logits, labels, ignore_index=ignore_index)
                return bootstrapped(each, worst_pixels=loss.worst_pixels).sum() / by.images
            case "dice":
                return dice(logits, labels, ignore_index=ignore_index).sum() / by.images
            case "lovasz_softmax":
                return lovasz_softmax(logits, labels, ignore_index=ignore_index).sum() / by.images

    def of(logits: Tensor) -> Tensor:
        # Half precision is too coarse for sums over pixels; float64 stays.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        full = upsample(logits, size, stride=stride)
        return torch.stack([weight * value(term, full) for term, weight in loss.terms.items()]).sum()

    total = of(output.logits)
    for logits in output.auxiliary:
        total = total + auxiliary_weight * of(logits)
    return total


def pixel_losses(logits: Tensor, labels: Tensor, *, ignore_index: int, class_weights: Tensor | None = None) -> Tensor:
    """-log p of each pixel's class times the class's weight, [batch, height, width]; 0 where ignored.

    Args:
        logits: [batch, classes, height, width].
        labels: int64 [batch, height, width].
        ignore_index: label that counts nowhere.
        class_weights: float [classes].
    """
    weight = None if class_weights is None else class_weights.to(logits.dtype)
    return F.cross_entropy(logits, labels, weight=weight, ignore_index=ignore_index, reduction="none")


def focal(each: Tensor, logits: Tensor, labels: Tensor, *, gamma: float) -> Tensor:
    """Cross-entropy times (1 - p)^gamma (Lin et al., ICCV 2017, equation 4).

    Args:
        each: of `pixel_losses`, [batch, height, width].
        logits: [batch, classes, height, width].
        labels: int64 [batch, height, width]; those out of range have a loss of 0 already.
        gamma: 0 gives cross-entropy.
    """
    own = labels.clamp(0, logits.shape[1] - 1)[:, None]
    log_p = logits.log_softmax(dim=1).gather(1, own)[:, 0]
    # -expm1: 1 - p without cancellation; its power has no finite slope at 0.
    return each * (-torch.expm1(log_p)).clamp(min=1e-8) ** gamma


def bootstrapped(each: Tensor, *, worst_pixels: int) -> Tensor:
    """The mean over the pixels of largest loss in each image, [batch].

    FRRN (Pohlen et al. 2017, section 4.2; Wu et al. 2016): 512 x 64 pixels an image. Void pixels have loss 0.

    Args:
        each: of `pixel_losses`, [batch, height, width].
        worst_pixels: how many of an image count; all, if it has fewer.
    """
    each = each.flatten(1)
    return each.topk(min(worst_pixels, each.shape[1]), dim=1, sorted=False).values.mean(dim=1)


def _one_hot(labels: Tensor, num_classes: int, ignore_index: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[batch, classes, pixels] of 0 and 1, and [batch, 1, pixels] that is 1 where a pixel is labelled."""
    flat = labels.flatten(1)
    labelled = flat != ignore_index
    own = torch.where(labelled, flat, 0)
    truth = torch.zeros(len(flat), num_classes, flat.shape[1], dtype=dtype, device=labels.device)
    truth.scatter_(1, own[:, None], labelled[:, None].to(dtype))
    return truth, labelled[:, None].to(dtype)


def dice(logits: Tensor, labels: Tensor, *, ignore_index: int) -> Tensor:
    """1 - 2 sum(p g) / (sum p + sum g), the mean over the classes that an image shows, [batch].

    V-Net (Milletari et al. 2016, section 3) has squares in the divisor; without them as in Sudre et al. 2017.

    Args:
        logits: [batch, classes, height, width].
        labels: int64 [batch, height, width].
        ignore_index: label of pixels that count nowhere.
    """
    truth, labelled = _one_hot(labels, logits.shape[1], ignore_index, logits.dtype)
    p = logits.flatten(2).softmax(dim=1) * labelled
    size = truth.sum(dim=2)
    overlap = 2 * (p * truth).sum(dim=2) / (p.sum(dim=2) + size).clamp(min=1e-6)
    shown = (size > 0).to(p.dtype)
    return ((1 - overlap) * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1)


def lovasz_softmax(logits: Tensor, labels: Tensor, *, ignore_index: int) -> Tensor:
    """The Lovász extension of 1 - IoU, the mean over the classes that an image shows, [batch].

    Berman, Triki & Blaschko, "The Lovász-Softmax loss", CVPR 2018, equations 9 and 11: errors sorted from large to
    small, times the growth of 1 - IoU as these pixels turn wrong one after the other.

    Args:
        logits: [batch, classes, height, width].
        labels: int64 [batch, height, width].
        ignore_index: label of pixels that count nowhere.
    """
    truth, labelled = _one_hot(labels, logits.shape[1], ignore_index, logits.dtype)
    p = logits.flatten(2).softmax(dim=1)
    errors, order = ((truth - p).abs() * labelled).sort(dim=2, descending=True)
    ranked, counted = truth.gather(2, order), labelled.expand_as(truth).gather(2, order)
    size = truth.sum(dim=2, keepdim=True)
    hits = size - ranked.cumsum(dim=2)
    union = size + (counted - ranked).cumsum(dim=2)
    jaccard = 1 - hits / union.clamp(min=1)
    growth = torch.diff(jaccard, dim=2, prepend=torch.zeros_like(size))
    shown = (size[:, :, 0] > 0).to(p.dtype)
    return ((errors * growth).sum(dim=2) * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1)


def _border_weights(labels: NDArray[np.int64], ignore_index: int, loss: SegmentationLoss) -> NDArray[np.float32]:
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
