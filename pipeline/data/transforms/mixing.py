"""CutMix and copy-paste: two training crops combined into one. Labels move with their pixels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Crop = tuple[NDArray[np.uint8], NDArray[np.int32]]


def cutmix(crop: Crop, other: Crop, rng: np.random.Generator) -> Crop:
    """Replace a random box by the same box of another crop: CutMix (Yun et al., ICCV 2019).

    The area of the box is uniform in 0..1 of the crop's, and its centre uniform over the crop, so that the border may
    cut it off (section 3.1).

    Args:
        crop: Pixels, uint8 [height, width, 3], and labels, int32 [height, width]; not modified.
        other: A crop of the same size.
        rng: The source of randomness.
    """
    pixels, labels = crop[0].copy(), crop[1].copy()
    side = np.sqrt(rng.random())
    box = []
    for n in labels.shape:
        centre, half = rng.integers(0, n), side * n / 2
        box.append(slice(max(0, round(centre - half)), round(centre + half)))
    rows, columns = box
    pixels[rows, columns], labels[rows, columns] = other[0][rows, columns], other[1][rows, columns]
    return pixels, labels


def copy_paste(crop: Crop, other: Crop, *, classes: Sequence[int], ignore_index: int, rng: np.random.Generator) -> Crop:
    """Paste a random half of the other crop's classes, rounded up, at the same place.

    This is copy-paste (Ghiasi et al., CVPR 2021) for label maps without instances, as in ClassMix (Olsson et al., WACV
    2021).

    Args:
        crop: Pixels, uint8 [height, width, 3], and labels, int32 [height, width]; not modified.
        other: A crop of the same size.
        classes: Indices of the classes that may be pasted; all if empty.
        ignore_index: Label that is never pasted.
        rng: The source of randomness.
    """
    present = [int(c) for c in np.unique(other[1]) if c != ignore_index and (not classes or c in classes)]
    if not present:
        return crop
    chosen = rng.choice(present, size=(len(present) + 1) // 2, replace=False)
    mask = np.isin(other[1], chosen)
    return np.where(mask[..., None], other[0], crop[0]), np.where(mask, other[1], crop[1])
