"""Class activation maps: where a classifier trained on image labels sees a class.

Zhou, Khosla, Lapedriza, Oliva & Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016: with
global average pooling before the last layer, the score S_c of a class, apart from its bias, is the mean over the image
of a map M_c,

    S_c = sum_k w_k^c mean_xy f_k(x, y),    M_c(x, y) = sum_k w_k^c f_k(x, y),

so the forward pass gives the map of every class, without a backward pass.
"""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.cam.options import Interpolation, Normalisation, Order


def class_maps(features: NDArray, weights: NDArray, classes: Sequence[int]) -> NDArray[np.float32]:
    """Compute the raw maps of some classes for one image (Zhou et al., equation 2).

    Args:
        features: Input of the global pooling, [channels, height, width].
        weights: Weights of the last layer, [all classes, channels]. Its bias is not part of a map.
        classes: Indices of the classes.

    Returns:
        float32 [len(classes), height, width], of either sign.
    """
    return np.tensordot(weights[list(classes)].astype(np.float32), features.astype(np.float32), axes=1)


def normalise(maps: NDArray, how: Normalisation) -> NDArray[np.float32]:
    """Scale maps to a maximum of 1.

    A map without a positive value becomes 0, and with "min_max" so does a constant map.

    Args:
        maps: Raw maps [..., height, width].
        how: "max" divides by the maximum (Zhou et al.) and keeps negative values; "relu_max" sets negative values to 0
            first; "min_max" subtracts the minimum first (Choe et al., CVPR 2020).
    """
    maps = np.asarray(maps, np.float32)
    if how == "relu_max":
        maps = np.maximum(maps, 0)
    elif how == "min_max":
        maps = maps - maps.min(axis=(-2, -1), keepdims=True)
    largest = maps.max(axis=(-2, -1), keepdims=True)
    usable = np.isfinite(largest) & (largest > 0)
    return np.where(usable, maps / np.where(usable, largest, 1), 0).astype(np.float32)


def resize(maps: NDArray, size: tuple[int, int], how: Interpolation = "bilinear") -> NDArray[np.float32]:
    """Resize maps [..., h, w] to (height, width); pixels are areas, as in PyTorch's `align_corners=False`."""
    rows, columns = (_interpolation_matrix(old, new, how) for old, new in zip(maps.shape[-2:], size, strict=True))
    return rows @ np.asarray(maps, np.float32) @ columns.T


@functools.lru_cache(maxsize=64)
def _interpolation_matrix(old: int, new: int, how: Interpolation) -> NDArray[np.float32]:
    """Return the matrix [new, old] that interpolates along an axis; beyond the border, the last sample repeats."""
    position = (np.arange(new) + 0.5) * old / new - 0.5
    if how == "bilinear":
        position = position.clip(0, old - 1)
    first = np.floor(position).astype(int)
    matrix = np.zeros((new, old), np.float32)
    for offset in (0, 1) if how == "bilinear" else (-1, 0, 1, 2):
        distance = np.abs(position - first - offset)
        weight = 1 - distance if how == "bilinear" else _cubic(distance)
        np.add.at(matrix, (np.arange(new), (first + offset).clip(0, old - 1)), weight)
    return matrix


def _cubic(distance: NDArray, a: float = -0.75) -> NDArray:
    """Evaluate Keys' cubic convolution kernel with the parameter of OpenCV and PyTorch."""
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def heatmaps(
    maps: NDArray,
    size: tuple[int, int],
    *,
    how: Normalisation = "relu_max",
    order: Order = "resize_first",
    interpolation: Interpolation = "bilinear",
) -> NDArray[np.float32]:
    """Turn raw maps into normalised maps of the image's size.

    Args:
        maps: Raw maps [n, h, w] from `class_maps`.
        size: Height, width of the image.
        how: Normalisation; see `normalise`.
        order: "resize_first" as in the evaluation of Choe et al., or "normalise_first" as in the CAM paper's code. The
            maximum of the resized map differs from that of the raw map, with bicubic interpolation more than with
            bilinear.
        interpolation: Interpolation when resizing.
    """
    if order == "normalise_first":
        return resize(normalise(maps, how), size, interpolation)
    return normalise(resize(maps, size, interpolation), how)


def average(maps: Sequence[NDArray], size: tuple[int, int], *, flipped: Sequence[bool]) -> NDArray[np.float32]:
    """Average the raw maps of one image over forward passes at several scales, mirrored or not.

    Args:
        maps: Maps [n, h, w] of each pass; h and w may differ.
        size: Height, width of the result.
        flipped: Whether the input of each pass was mirrored left to right.
    """
    aligned = [resize(m[..., ::-1] if mirrored else m, size) for m, mirrored in zip(maps, flipped, strict=True)]
    return np.mean(aligned, axis=0, dtype=np.float32)
