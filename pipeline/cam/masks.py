"""From maps to label maps, by threshold or dense CRF: masks to look at, and pseudo-labels to learn from. No torch.

Class 0 is the background, class k + 1 the k-th of the maps. The rule for pseudo-labels is that of IRN (Ahn, Cho & Kwak,
"Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019): the background is a class
of constant score; under a high one what is foreground is sure, under a low one what is background is, and pixels that
are neither count nowhere.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.cam.options import IRN_CRF
from pipeline.crf import CRFParams, dense_crf

IGNORE = 255
SURE = 0.7  # probability of a pixel's label before the CRF, IRN's gt_prob


def label_map(
    heatmaps: NDArray, *, background: float, pixels: NDArray[np.uint8] | None = None, crf: CRFParams | None = None
) -> NDArray[np.uint8]:
    """The class of largest map at each pixel, or background.

    Args:
        heatmaps: [n, height, width], of classes that the image shows, each normalised to a maximum of 1.
        background: the background's score, 0..1.
        pixels: uint8 [height, width, 3]; with them a CRF moves the borders to the image's.
        crf: its parameters; IRN's by default.

    Returns:
        uint8 [height, width]: 0 background, k + 1 the k-th map's class.
    """
    floor = np.full((1, *heatmaps.shape[1:]), background, heatmaps.dtype)
    labels = np.concatenate([floor, heatmaps]).argmax(axis=0).astype(np.uint8)
    classes = len(heatmaps) + 1
    if pixels is None or classes == 1:
        return labels
    probabilities = np.full((classes, *labels.shape), (1 - SURE) / (classes - 1), np.float32)
    np.put_along_axis(probabilities, labels[None].astype(np.intp), SURE, axis=0)
    return dense_crf(pixels, probabilities=probabilities, params=crf or IRN_CRF).astype(np.uint8)


def pseudo_labels(
    heatmaps: NDArray,
    *,
    sure_background: float = 0.05,
    sure_foreground: float = 0.3,
    pixels: NDArray[np.uint8] | None = None,
    crf: CRFParams | None = None,
) -> NDArray[np.uint8]:
    """A label map to learn from: foreground and background where they are sure, `IGNORE` elsewhere.

    Args:
        heatmaps, pixels, crf: see `label_map`.
        sure_background: below it a pixel is background.
        sure_foreground: above it a pixel is foreground; between the two it is ignored.

    Raises:
        ValueError: the band is upside down.
    """
    if sure_background > sure_foreground:
        raise ValueError(f"sure_background {sure_background} is above sure_foreground {sure_foreground}")
    labels = label_map(heatmaps, background=sure_foreground, pixels=pixels, crf=crf)
    undecided = (labels == 0) & (label_map(heatmaps, background=sure_background, pixels=pixels, crf=crf) != 0)
    return np.where(undecided, IGNORE, labels).astype(np.uint8)
