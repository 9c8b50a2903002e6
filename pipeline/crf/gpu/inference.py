"""From pixels and score maps of a batch of images to refined labels or probabilities, all on one device."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.crf.gpu.kernel import Kernel, kernel_between
from pipeline.crf.gpu.lattice import Features
from pipeline.crf.gpu.mean_field import Compatibility, Kernels, mean_field
from pipeline.crf.lattice import check_span
from pipeline.crf.params import CRFParams, Mode, Normalisation
from pipeline.crf.pruning import COARSE_STEPS, LIKELY, MIN_WIN_SHARE, can_prune
from pipeline.crf.rows import PADDING_SCORE
from pipeline.crf.samples import BLOCK_SIDE

LANES = 4  # the lanes of images with pruned classes are a multiple of this: 16 bytes


class Unary(NamedTuple):
    """The unary terms of a batch of images.

    Attributes:
        maps: float32 [images, classes, h, w], log-probabilities up to a constant for each place.
        stride: factor by which the maps are upsampled to the size of the images, where they are cropped.
    """

    maps: Tensor
    stride: int


class Lanes(NamedTuple):
    """The classes for which an image has lanes of its own; the others share the rest lane, see `crf.pruning`.

    Attributes:
        kept: bool [images, classes].
        rest_factor: float32 [images], compatibility factor of the rest lane's messages.
    """

    kept: Tensor
    rest_factor: Tensor


class Marginals(NamedTuple):
    """The result of inference.

    Attributes:
        logits: float32 [images, height, width, lanes].
        classes: int64 [images, lanes], class of each lane; -1 for lanes that cannot win.
    """

    logits: Tensor
    classes: Tensor

    def labels(self) -> Tensor:
        """Return the best class of each pixel, int32 [images, height, width]."""
        can_win = (self.classes >= 0)[:, None, None]
        best = torch.where(can_win, self.logits, -torch.inf).argmax(dim=-1)
        return self.classes.gather(1, best.reshape(len(best), -1)).reshape(best.shape).int()

    def probabilities(self, num_classes: int) -> Tensor:
        """Return float32 [images, classes, height, width], with 0 for pruned classes."""
        q = torch.softmax(self.logits, dim=-1).permute(0, 3, 1, 2)
        result = q.new_zeros(len(q), num_classes + 1, *q.shape[2:])
        places = self.classes.where(self.classes >= 0, num_classes)
        result.scatter_(1, places[:, :, None, None].expand(q.shape), q)
        return result[:, :num_classes]


@torch.inference_mode()
def infer(pixels: Tensor, unary: Unary, *, params: CRFParams, mode: Mode) -> Iterator[tuple[Tensor, Marginals]]:
    """Choose classes according to the mode and run mean-field inference.

    Images with equally many lanes are computed together, so the result of an image does not depend on the others.

    Args:
        pixels: uint8 or float32 [images, height, width, channels].
        unary: unary terms of the images.
        params: parameters of the CRF.
        mode: see `Mode`; "fast" is the same as "pruned", so that all images of a batch have as many samples.

    Yields:
        The numbers of some of the images, int64, and their marginals.

    Raises:
        ValueError: An image spans too many kernel widths, or the compatibility does not fit the classes.
    """
    classes, size = unary.maps.shape[1], (pixels.shape[1], pixels.shape[2])
    if mode == "exact" or not can_prune(size, params):
        every = torch.arange(len(pixels), device=pixels.device)
        lanes = Lanes(torch.ones_like(unary.maps[:, :, 0, 0], dtype=torch.bool), unary.maps.new_zeros(len(pixels)))
        yield every, _infer_lanes(pixels, unary, lanes, classes, params)
        return
    lanes = _choose_lanes(pixels, unary, params)
    used = (lanes.kept.sum(dim=1) + 1).clamp_(max=classes)
    widths = (-(-used // LANES) * LANES).clamp_(max=classes)
    for width in sorted(set(widths.tolist())):
        some = (widths == width).nonzero().reshape(-1)
        group = Lanes(lanes.kept[some], lanes.rest_factor[some])
        yield some, _infer_lanes(pixels[some], Unary(unary.maps[some], unary.stride), group, width, params)


def _infer_lanes(pixels: Tensor, unary: Unary, lanes: Lanes, width: int, params: CRFParams) -> Marginals:
    """Run inference with one sample for each pixel.

    Args:
        pixels: as in `infer`.
        unary: unary terms of the images.
        lanes: classes that each image keeps.
        width: number of lanes of every image.
        params: parameters of the CRF.
    """
    num_classes = unary.maps.shape[1]
    places = torch.arange(width, device=pixels.device)
    count = lanes.kept.sum(dim=1, keepdim=True)
    classes = lanes.kept.logical_not().int().argsort(dim=1, stable=True)[:, :width]  # the kept ones first
    maps, prunes = unary.maps, width < num_classes or bool((count < num_classes).any())
    if prunes:
        maps = maps.gather(1, classes[:, :, None, None].expand(-1, -1, *maps.shape[2:]))
        rest = unary.maps.masked_fill(lanes.kept[:, :, None, None], -torch.inf).logsumexp(dim=1, keepdim=True)
        other = torch.where((places == count)[:, :, None, None], rest, float(PADDING_SCORE))
        maps = torch.where((places < count)[:, :, None, None], maps, other)
    size = (pixels.shape[1], pixels.shape[2])
    scores = upsampled(Unary(maps, unary.stride), size)
    compatibility = _compatibility(params, lanes, classes, count, prunes=prunes)
    logits = _run(pixels, scores.reshape(len(scores), -1, width), 1, compatibility, params)
    return Marginals(logits.reshape(scores.shape), torch.where(places < count, classes, -1))


def _compatibility(params: CRFParams, lanes: Lanes, classes: Tensor, count: Tensor, *, prunes: bool) -> Compatibility:
    """Return the compatibility of lanes.

    Args:
        params: parameters of the CRF.
        lanes: classes that each image keeps.
        classes: int64 [images, lanes], class of each lane.
        count: int64 [images, 1], number of kept classes.
        prunes: whether an image does not keep all classes.
    """
    given = params.label_compatibility(lanes.kept.shape[1])
    if given is None and not prunes:
        return Compatibility(None, None)
    device = classes.device
    if given is not None and given.ndim == 2:
        return Compatibility(None, -torch.from_numpy(given).to(device).T)
    factors = torch.ones(lanes.kept.shape[1]) if given is None else torch.from_numpy(given)
    places = torch.arange(classes.shape[1], device=device)
    rest = torch.where(places == count, lanes.rest_factor[:, None], 0)
    return Compatibility(torch.where(places < count, factors.to(device)[classes], rest), None)


def _choose_lanes(pixels: Tensor, unary: Unary, params: CRFParams) -> Lanes:
    """Choose the classes to keep by the rule of `pruning.choose_classes`, with a CRF on one pixel of 16."""
    images, classes = unary.maps.shape[:2]
    scores = upsampled(unary, (pixels.shape[1], pixels.shape[2]))
    number = torch.arange(images, device=pixels.device)[:, None]
    before = scores.argmax(dim=-1).reshape(images, -1) + classes * number
    wins = torch.bincount(before.reshape(-1), minlength=images * classes).reshape(images, classes).double()
    coarse_scores = _middle(scores, BLOCK_SIDE).reshape(images, -1, classes)
    coarse_params = params.model_copy(update={"steps": COARSE_STEPS, "stop_below": 0.0})
    given = params.label_compatibility(classes)
    factors = None if given is None else torch.from_numpy(given).to(pixels.device).expand(images, -1)
    coarse = _run(pixels, coarse_scores, BLOCK_SIDE, Compatibility(factors, None), coarse_params).softmax(dim=-1)
    likely = (coarse >= LIKELY * coarse.amax(dim=-1, keepdim=True)).any(dim=1)
    kept = likely | (wins > MIN_WIN_SHARE * wins.sum(dim=1, keepdim=True))
    # In float64, the order of the sum, which may depend on the number of images, does not show in the result.
    mass = coarse.mean(dim=1, dtype=torch.float64).masked_fill(kept, 0)
    return Lanes(kept, ((mass**2).sum(dim=1) / (mass.sum(dim=1) ** 2).clamp(min=1e-30)).float())


def _run(pixels: Tensor, scores: Tensor, side: int, compatibility: Compatibility, params: CRFParams) -> Tensor:
    """Run mean-field inference on squares of a side, each represented by its middle pixel; see `crf.samples`.

    Args:
        pixels: as in `infer`.
        scores: float32 [images, samples, lanes].
        side: side of the squares in pixels.
        compatibility: compatibility of the lanes.
        params: parameters of the CRF.
    """
    if not params.steps:
        return scores
    stream = torch.cuda.current_stream(pixels.device).stream_id if pixels.is_cuda else 0
    features = bilateral_features(pixels, side, params.sigma_alpha, params.sigma_beta)
    kernels = Kernels(
        kernel_between(features, pixels=side**2, weight=params.w1, normalisation=params.normalisation),
        _spatial_kernel(
            (pixels.shape[1], pixels.shape[2]), side, params.sigma_gamma, params.w2, params.normalisation,
            pixels.device, stream,
        ),
    )  # fmt: skip
    return mean_field(scores, kernels, compatibility, params)


@lru_cache(maxsize=8)
def _spatial_kernel(
    size: tuple[int, int],
    side: int,
    sigma: float,
    weight: float,
    normalisation: Normalisation,
    device: torch.device,
    stream: int,
) -> Kernel:
    """Return the spatial kernel of an image, which depends on its size alone.

    Each CUDA stream has its own, because PyTorch's allocator may reuse the memory of a tensor as soon as the stream
    that created it allows.
    """
    features = bilateral_features(torch.empty(1, *size, 0, device=device), side, sigma, 1)
    return kernel_between(features, pixels=side**2, weight=weight, normalisation=normalisation)


def bilateral_features(pixels: Tensor, side: int, sigma: float, sigma_colour: float) -> Features:
    """Return the coordinates of the squares' centres divided by sigma, and their colours divided by sigma_colour.

    Args:
        pixels: uint8 or float32 [images, height, width, channels].
        side: side of the squares in pixels; a square has the colour of its middle pixel.
        sigma: width of the kernel in pixels.
        sigma_colour: width of the kernel in grey levels.

    Raises:
        ValueError: An image spans too many kernel widths.
    """
    images, height, width, channels = pixels.shape
    colours = _middle(pixels, side)
    rows, columns = colours.shape[1:3]
    values = torch.empty(images, rows, columns, 2 + channels, device=pixels.device)
    to_centre = 0.5 * (side - 1)
    for axis, count in ((0, columns), (1, rows)):
        centres = (torch.arange(count, device=pixels.device) * side + to_centre) * (1 / sigma)
        values[..., axis] = centres if axis == 0 else centres[:, None]
    values[..., 2:] = colours
    values[..., 2:] *= 1 / sigma_colour
    low = np.zeros((images, 2 + channels), np.float32)
    high = np.zeros_like(low)
    high[:, :2] = width / sigma, height / sigma
    if channels:
        flat = pixels.reshape(images, -1)
        darkest, brightest = torch.stack([flat.amin(dim=1), flat.amax(dim=1)]).cpu().numpy()
        low[:, 2:], high[:, 2:] = darkest[:, None] / sigma_colour, brightest[:, None] / sigma_colour
    for bounds in zip(low, high, strict=True):
        check_span(*bounds)
    return Features(values.reshape(images, rows * columns, -1), low.min(axis=0), high.max(axis=0))


def _middle(values: Tensor, side: int) -> Tensor:
    """Return the middle pixels of squares, [images, rows, columns, …] of [images, height, width, …]."""
    return values[:, side // 2 :: side, side // 2 :: side]


def upsampled(unary: Unary, size: tuple[int, int]) -> Tensor:
    """Return the scores of each pixel, float32 [images, height, width, classes] in contiguous memory."""
    maps = unary.maps.contiguous(memory_format=torch.channels_last)
    if unary.stride > 1:
        maps = F.interpolate(maps, scale_factor=unary.stride, mode="bilinear", align_corners=False)
    return maps[:, :, : size[0], : size[1]].permute(0, 2, 3, 1).contiguous()
