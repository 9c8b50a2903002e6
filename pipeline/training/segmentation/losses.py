"""Losses of a network's scores against label maps. torch; SciPy for distances.

Pixelwise terms are sums over the labelled pixels divided by their number, or with class weights by their summed weight.
The other terms are sums over images divided by the number of images. A worker or an accumulated part divides by the
totals of the whole batch, so that the losses of all parts add up to the loss of the batch.
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
    """The divisors of a batch's sums.

    Attributes:
        pixels: Number or summed class weight of the labelled pixels, a scalar.
        images: Number of images, a scalar.
    """

    pixels: Tensor
    images: Tensor


def loss_totals(labels: Tensor, *, ignore_index: int, class_weights: Tensor | None = None) -> LossTotals:
    """Return the divisors for a batch; `pixels` is at least 1e-6, for a batch in which every pixel is ignored.

    Args:
        labels: int64 [batch, height, width].
        ignore_index: Label of pixels that do not count.
        class_weights: Weights of the pixelwise terms, float [classes].
    """
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
    """Return the loss of a batch at full resolution, including the weighted losses of auxiliary outputs.

    Args:
        output: Output of the network in train mode.
        labels: int64 [batch, height, width].
        ignore_index: Label of pixels that do not count; a batch of only such pixels gives 0, not NaN.
        stride: Output stride of the network.
        auxiliary_weight: Weight of each auxiliary output's loss.
        loss: Options of the loss; cross-entropy by default.
        class_weights: Weights of the pixelwise terms, float [classes].
        divisors: Totals of the batch of which these labels are a part; by default the totals of these labels.
    """
    loss = loss or SegmentationLoss()
    size = (labels.shape[-2], labels.shape[-1])
    totals = divisors or loss_totals(labels, ignore_index=ignore_index, class_weights=class_weights)
    if loss.reduction == "sum":
        totals = LossTotals(torch.ones_like(totals.pixels), torch.ones_like(totals.images))
    borders = torch.ones((), device=labels.device)
    if "border_weighted" in loss.terms:
        maps = [
            border_weights(
                label_map,
                ignore_index=ignore_index,
                background=loss.background,
                amplitude=loss.border_weight,
                sigma=loss.border_sigma,
            )
            for label_map in labels.cpu().numpy()
        ]
        borders = torch.from_numpy(np.stack(maps)).to(labels.device)

    def loss_of_term(term: LossTerm, logits: Tensor) -> Tensor:
        match term:
            case "cross_entropy" | "border_weighted" | "focal":
                losses = pixel_losses(logits, labels, ignore_index=ignore_index, class_weights=class_weights)
                if term == "focal":
                    losses = focal(losses, logits, labels, gamma=loss.focal_gamma)
                elif term == "border_weighted":
                    losses = losses * borders
                return losses.sum() / totals.pixels
            case "bootstrapped":
                losses = pixel_losses(logits, labels, ignore_index=ignore_index)
                return bootstrapped(losses, worst_pixels=loss.worst_pixels).sum() / totals.images
            case "dice":
                return dice(logits, labels, ignore_index=ignore_index).sum() / totals.images
            case "lovasz_softmax":
                return lovasz_softmax(logits, labels, ignore_index=ignore_index).sum() / totals.images

    def loss_of_scores(logits: Tensor) -> Tensor:
        # Half precision is too coarse for sums over pixels; float64 stays.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        upsampled = upsample(logits, size, stride=stride)
        return torch.stack([weight * loss_of_term(term, upsampled) for term, weight in loss.terms.items()]).sum()

    total = loss_of_scores(output.logits)
    for logits in output.auxiliary:
        total = total + auxiliary_weight * loss_of_scores(logits)
    return total


def pixel_losses(logits: Tensor, labels: Tensor, *, ignore_index: int, class_weights: Tensor | None = None) -> Tensor:
    """Return the weighted cross-entropy of each pixel, [batch, height, width]; 0 for ignored pixels.

    Args:
        logits: [batch, classes, height, width].
        labels: int64 [batch, height, width].
        ignore_index: Label of pixels that do not count.
        class_weights: float [classes].
    """
    weight = None if class_weights is None else class_weights.to(logits.dtype)
    return F.cross_entropy(logits, labels, weight=weight, ignore_index=ignore_index, reduction="none")


def focal(losses: Tensor, logits: Tensor, labels: Tensor, *, gamma: float) -> Tensor:
    """Return the focal loss of each pixel, its cross-entropy times (1 - p)^gamma (Lin et al., ICCV 2017, equation 4).

    Args:
        losses: Cross-entropy from `pixel_losses`, [batch, height, width].
        logits: [batch, classes, height, width].
        labels: int64 [batch, height, width]; `losses` is already 0 where a label is not a class.
        gamma: Exponent; 0 gives the cross-entropy.
    """
    classes = labels.clamp(0, logits.shape[1] - 1)[:, None]
    log_p = logits.log_softmax(dim=1).gather(1, classes)[:, 0]
    # -expm1 gives 1 - p without cancellation; the clamp keeps the gradient of the power finite at p = 1.
    return losses * (-torch.expm1(log_p)).clamp(min=1e-8) ** gamma


def bootstrapped(losses: Tensor, *, worst_pixels: int) -> Tensor:
    """Return the mean over the pixels with the largest losses in each image, [batch].

    FRRN takes 512 x 64 pixels of an image (Pohlen et al. 2017, section 4.2; Wu et al. 2016). Ignored pixels have the
    loss 0.

    Args:
        losses: Cross-entropy from `pixel_losses`, [batch, height, width].
        worst_pixels: Pixels of an image that count; all if the image has fewer.
    """
    losses = losses.flatten(1)
    return losses.topk(min(worst_pixels, losses.shape[1]), dim=1, sorted=False).values.mean(dim=1)


def _one_hot(labels: Tensor, num_classes: int, ignore_index: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Encode labels as zeros and ones.

    Returns:
        The one-hot labels [batch, classes, pixels], and [batch, 1, pixels] with 1 for labelled pixels.
    """
    flat = labels.flatten(1)
    labelled = flat != ignore_index
    classes = torch.where(labelled, flat, 0)
    truth = torch.zeros(len(flat), num_classes, flat.shape[1], dtype=dtype, device=labels.device)
    truth.scatter_(1, classes[:, None], labelled[:, None].to(dtype))
    return truth, labelled[:, None].to(dtype)


def dice(logits: Tensor, labels: Tensor, *, ignore_index: int) -> Tensor:
    """Return 1 - 2 sum(p g) / (sum p + sum g), the mean over the classes in an image's ground truth, [batch].

    The divisor is as in Sudre et al. 2017; V-Net (Milletari et al. 2016, section 3) has squares in it.

    Args:
        logits: [batch, classes, height, width].
        labels: int64 [batch, height, width].
        ignore_index: Label of pixels that do not count.
    """
    truth, labelled = _one_hot(labels, logits.shape[1], ignore_index, logits.dtype)
    p = logits.flatten(2).softmax(dim=1) * labelled
    size = truth.sum(dim=2)
    overlap = 2 * (p * truth).sum(dim=2) / (p.sum(dim=2) + size).clamp(min=1e-6)
    present = (size > 0).to(p.dtype)
    return ((1 - overlap) * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)


def lovasz_softmax(logits: Tensor, labels: Tensor, *, ignore_index: int) -> Tensor:
    """Return the Lovász extension of 1 - IoU, the mean over the classes in an image's ground truth, [batch].

    Berman, Triki & Blaschko, "The Lovász-Softmax loss", CVPR 2018, equations 9 and 11: the errors in descending order,
    each times the increase of 1 - IoU when its pixel joins the wrong ones before it.

    Args:
        logits: [batch, classes, height, width].
        labels: int64 [batch, height, width].
        ignore_index: Label of pixels that do not count.
    """
    truth, labelled = _one_hot(labels, logits.shape[1], ignore_index, logits.dtype)
    p = logits.flatten(2).softmax(dim=1)
    errors, order = ((truth - p).abs() * labelled).sort(dim=2, descending=True)
    sorted_truth, sorted_labelled = truth.gather(2, order), labelled.expand_as(truth).gather(2, order)
    size = truth.sum(dim=2, keepdim=True)
    intersection = size - sorted_truth.cumsum(dim=2)
    union = size + (sorted_labelled - sorted_truth).cumsum(dim=2)
    jaccard_loss = 1 - intersection / union.clamp(min=1)
    increase = torch.diff(jaccard_loss, dim=2, prepend=torch.zeros_like(size))
    present = (size[:, :, 0] > 0).to(p.dtype)
    return ((errors * increase).sum(dim=2) * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)


def border_weights(
    labels: NDArray[np.int64], *, ignore_index: int, background: int = 0, amplitude: float = 10.0, sigma: float = 5.0
) -> NDArray[np.float32]:
    """Compute U-Net's weight map (Ronneberger et al. 2015, equation 2), [height, width].

    The weight is 1 + w0 exp(-(d1 + d2)² / 2 σ²) on the background, with the distances d1 and d2 to the nearest and the
    second nearest object, and 1 elsewhere. Objects are the connected parts of a class, so objects of one class that
    touch need a line of background between them, as in the paper's data.

    Args:
        labels: Label map [height, width].
        ignore_index: Label that is neither object nor background.
        background: Class between the objects.
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
