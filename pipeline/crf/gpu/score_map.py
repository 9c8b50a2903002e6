"""Refine networks' coarse score maps by a dense CRF on a device, without full-size probabilities of all classes."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pipeline.crf.dense import image_array, image_tiles
from pipeline.crf.gpu.inference import Unary, infer, upsampled
from pipeline.crf.gpu.memory import batch_limit, bytes_needed
from pipeline.crf.params import CRFParams, Mode
from pipeline.crf.score_map import RefinedLabels, check_shape
from pipeline.crf.tiles import MAX_BYTES, Tile


def crf_of_scores(
    image: ArrayLike,
    scores: ArrayLike,
    *,
    stride: int,
    params: CRFParams | None = None,
    mode: Mode = "pruned",
    max_bytes: int = MAX_BYTES,
    device: torch.device | str = "cuda",
) -> RefinedLabels:
    """Upsample a network's scores bilinearly and refine the labels by a dense CRF on a device.

    Arguments, results and errors are those of `crf.score_map.crf_of_scores`, and a large image is cut into the same
    tiles, of which the device holds one at a time.
    """
    params = params or CRFParams()
    pixels = torch.from_numpy(image_array(image))
    maps = torch.from_numpy(np.ascontiguousarray(scores))
    check_shape(tuple(maps.shape), (pixels.shape[0], pixels.shape[1]), stride)
    labels = torch.empty(pixels.shape[:2], dtype=torch.int32)
    changed = 0
    for tile in image_tiles(tuple(pixels.shape), params, classes=len(maps), max_bytes=max_bytes, align=stride):
        colours, unary = pixels[tile.outer].to(device), _unary(maps[None], tile, stride, device)
        refined = _labels(colours[None], unary, params, mode)[0][tile.kept]
        before = upsampled(unary, (colours.shape[0], colours.shape[1]))[0].argmax(dim=-1)[tile.kept]
        changed += int((refined != before).sum())
        labels[tile.inner] = refined.cpu()
    return RefinedLabels(labels.numpy(), changed)


def refine_batch(
    pixels: Tensor,
    scores: Tensor,
    *,
    stride: int,
    params: CRFParams,
    mode: Mode = "pruned",
    max_bytes: int | None = None,
) -> Tensor:
    """Refine a batch of images whose pixels and scores are on a device; nothing else leaves it or enters it.

    The result of an image does not depend on the others. As many images are computed at a time as fit the limit.

    Args:
        pixels: uint8 or float32 [images, height, width, channels], in grey levels 0..255.
        scores: float16 or float32 logits [images, classes, ceil(height / stride), ceil(width / stride)].
        stride: output stride of the network.
        params: parameters of the CRF.
        mode: see `Mode`; "fast" is the same as "pruned".
        max_bytes: limit of the working memory, `batch_limit` if None; an image alone may take more.

    Returns:
        int32 labels [images, height, width].

    Raises:
        ValueError: The shapes do not fit, a score is not finite, or a kernel's width is too small for an image.
        torch.OutOfMemoryError: An image does not fit the memory of the device.
    """
    _, height, width, channels = pixels.shape
    check_shape(tuple(scores.shape[1:]), (height, width), stride)
    classes = scores.shape[1]
    image_bytes = bytes_needed(height, width, classes, channels)
    count = max(1, (batch_limit(pixels.device) if max_bytes is None else max_bytes) // image_bytes)
    tiles = list(image_tiles((height, width, channels), params, classes=classes, max_bytes=MAX_BYTES, align=stride))
    labels = torch.empty(pixels.shape[:3], dtype=torch.int32, device=pixels.device)
    for first in range(0, len(pixels), count):
        some = slice(first, first + count)
        for tile in tiles:
            unary = _unary(scores[some], tile, stride, pixels.device)
            refined = _labels(pixels[some, *tile.outer], unary, params, mode)
            labels[some, *tile.inner] = refined[:, *tile.kept]
    return labels


def _unary(scores: Tensor, tile: Tile, stride: int, device: torch.device | str) -> Unary:
    """Return the unary terms of a tile of some images on the device.

    Raises:
        ValueError: A score is not finite.
    """
    rows, columns = (slice(pixels.start // stride, -(-pixels.stop // stride)) for pixels in tile.outer)
    maps = scores[:, :, rows, columns].to(device).float()
    if not bool(torch.isfinite(maps).all()):
        raise ValueError("scores: NaN or infinity")
    return Unary(maps, stride)


def _labels(pixels: Tensor, unary: Unary, params: CRFParams, mode: Mode) -> Tensor:
    """Return the refined labels of some images, int32 [images, height, width]."""
    labels = torch.empty(pixels.shape[:3], dtype=torch.int32, device=pixels.device)
    for images, marginals in infer(pixels, unary, params=params, mode=mode):
        labels[images] = marginals.labels()
    return labels
