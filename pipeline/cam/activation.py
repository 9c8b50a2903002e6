"""Class activation maps: where a classifier that only knew image labels sees a class. numpy only.

Zhou, Khosla, Lapedriza, Oliva & Torralba, "Learning Deep Features for Discriminative Localization", CVPR 2016: with
global average pooling before the last layer the score of a class is the mean over the image of a map,

    S_c = sum_k w_k^c mean_xy f_k(x, y),    M_c(x, y) = sum_k w_k^c f_k(x, y),

so the map comes out of the forward pass, for any class, without a backward one.
"""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.cam.options import Interpolation, Normalisation, Order


def class_maps(features: NDArray, weights: NDArray, classes: Sequence[int]) -> NDArray[np.float32]:
    """The maps of some classes of one image, raw: what their mean adds to the class's score (Zhou et al., equation 2).

    Args:
        features: [channels, height, width], the input of the global pooling.
        weights: [all classes, channels] of the last layer; its bias is no part of a map.
        classes: indices.

    Returns:
        float32 [len(classes), height, width], of either sign.
    """
    return np.tensordot(weights[list(classes)].astype(np.float32), features.astype(np.float32), axes=1)


def normalise(maps: NDArray, how: Normalisation) -> NDArray[np.float32]:
    """Maps scaled so that their largest value is 1; zeros where that is undefined.

    Args:
        maps: [..., height, width].
        how: "max" divides by the maximum (Zhou et al.); "relu_max" sets negative values to 0 first; "min_max" subtracts
            the minimum first (Choe et al., CVPR 2020). A map without a positive value (or, with min_max, a constant
            one) becomes 0; "max" keeps negative values.
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
    """Maps [..., h, w] at another size (height, width); pixels are areas, as with torch's `align_corners=False`."""
    rows, columns = (_interpolation(old, new, how) for old, new in zip(maps.shape[-2:], size, strict=True))
    return rows @ np.asarray(maps, np.float32) @ columns.T


@functools.lru_cache(maxsize=64)
def _interpolation(old: int, new: int, how: Interpolation) -> NDArray[np.float32]:
    """The matrix [new, old] that interpolates along an axis; samples beyond the border repeat the last one."""
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
    """Keys' cubic convolution kernel, with the parameter that OpenCV and torch have."""
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
    """Raw maps as normalised maps of the image's size.

    Args:
        maps: [n, h, w] of `class_maps`.
        size: height, width of the image.
        how: see `normalise`.
        order: "resize_first" as in the evaluation of Choe et al.; "normalise_first" as in the CAM paper's code. With
            bilinear interpolation they differ where the coarse maximum is not reached, with bicubic more.
        interpolation: of the resizing.
    """
    if order == "normalise_first":
        return resize(normalise(maps, how), size, interpolation)
    return normalise(resize(maps, size, interpolation), how)


def average(maps: Sequence[NDArray], size: tuple[int, int], *, flipped: Sequence[bool]) -> NDArray[np.float32]:
    """The mean of raw maps of one image that was shown at several scales, and mirrored.

    Args:
        maps: one [n, h, w] per showing, of any h and w.
        size: height, width of the result.
        flipped: which showings were mirrored left to right.
    """
    shown = [resize(m[..., ::-1] if mirrored else m, size) for m, mirrored in zip(maps, flipped, strict=True)]
    return np.mean(shown, axis=0, dtype=np.float32)
