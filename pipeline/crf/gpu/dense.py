"""Refine full-size class probabilities by a dense CRF on a device."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pipeline.crf.dense import class_planes, image_array, image_tiles
from pipeline.crf.gpu.inference import Unary, infer
from pipeline.crf.params import CRFParams, Mode
from pipeline.crf.rows import MIN_PROBABILITY
from pipeline.crf.tiles import MAX_BYTES


def dense_crf(
    image: ArrayLike,
    *,
    probabilities: ArrayLike | None = None,
    unary: ArrayLike | None = None,
    params: CRFParams | None = None,
    mode: Mode = "exact",
    output: Literal["labels", "probabilities"] = "labels",
    max_bytes: int = MAX_BYTES,
    device: torch.device | str = "cuda",
) -> NDArray:
    """Refine an image's labels by mean-field inference in a fully connected CRF on a device.

    Arguments, results and errors are those of `crf.dense.dense_crf`, and a large image is cut into the same tiles.
    """
    params = params or CRFParams()
    pixels = image_array(image)
    planes = class_planes(probabilities, unary, pixels.shape[:2])
    result: NDArray = np.empty(pixels.shape[:2], np.int32)
    if output == "probabilities":
        result = np.empty(planes.shape, np.float32)
    for tile in image_tiles(pixels.shape, params, classes=len(planes), max_bytes=max_bytes):
        maps = torch.from_numpy(np.ascontiguousarray(planes[:, *tile.outer])).to(device)
        log_p = -maps if probabilities is None else maps.clamp(min=float(MIN_PROBABILITY)).log()
        colours = torch.from_numpy(np.ascontiguousarray(pixels[tile.outer])).to(device)
        ((_, marginals),) = infer(colours[None], Unary(log_p[None], stride=1), params=params, mode=mode)
        refined = marginals.labels() if output == "labels" else marginals.probabilities(len(planes))
        result[..., *tile.inner] = refined[0].cpu().numpy()[..., *tile.kept]
    return result
