"""Masks and pseudo-labels from class activation maps, by threshold and dense CRF.

Class 0 is the background, and class k + 1 belongs to map k. Pseudo-labels follow IRN (Ahn, Cho & Kwak, "Weakly
Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019): the background is a class of
constant score. Foreground that beats a high score is sure, and so is background that wins with a low score. All other
pixels are ignored.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.cam.options import IRN_CRF
from pipeline.crf import CRFParams, dense_crf

IGNORE = 255
LABEL_PROBABILITY = 0.7  # of a pixel's label before the CRF: IRN's gt_prob


def label_map(
    heatmaps: NDArray, *, background: float, pixels: NDArray[np.uint8] | None = None, crf: CRFParams | None = None
) -> NDArray[np.uint8]:
    """Label each pixel with the class of the largest map, or background.

    Args:
        heatmaps: Maps of the classes in the image, [n, height, width], each normalised to a maximum of 1.
        background: Score of the background, 0..1.
        pixels: Image, uint8 [height, width, 3]; if given, a CRF aligns the mask with its edges.
        crf: Parameters of the CRF; IRN's by default.

    Returns:
        uint8 [height, width]: 0 for background, k + 1 for map k.
    """
    background_map = np.full((1, *heatmaps.shape[1:]), background, heatmaps.dtype)
    labels = np.concatenate([background_map, heatmaps]).argmax(axis=0).astype(np.uint8)
    classes = len(heatmaps) + 1
    if pixels is None or classes == 1:
        return labels
    probabilities = np.full((classes, *labels.shape), (1 - LABEL_PROBABILITY) / (classes - 1), np.float32)
    np.put_along_axis(probabilities, labels[None].astype(np.intp), LABEL_PROBABILITY, axis=0)
    return dense_crf(pixels, probabilities=probabilities, params=crf or IRN_CRF).astype(np.uint8)


def pseudo_labels(
    heatmaps: NDArray,
    *,
    sure_background: float = 0.05,
    sure_foreground: float = 0.3,
    pixels: NDArray[np.uint8] | None = None,
    crf: CRFParams | None = None,
) -> NDArray[np.uint8]:
    """Return a label map to train on: foreground and background where they are sure, `IGNORE` elsewhere.

    Args:
        heatmaps: See `label_map`.
        sure_background: Pixels below this score are background.
        sure_foreground: Pixels above this score are foreground; those between the two scores are ignored.
        pixels: See `label_map`.
        crf: See `label_map`.

    Raises:
        ValueError: `sure_background` is above `sure_foreground`.
    """
    if sure_background > sure_foreground:
        raise ValueError(f"sure_background {sure_background} is above sure_foreground {sure_foreground}")
    labels = label_map(heatmaps, background=sure_foreground, pixels=pixels, crf=crf)
    undecided = (labels == 0) & (label_map(heatmaps, background=sure_background, pixels=pixels, crf=crf) != 0)
    return np.where(undecided, IGNORE, labels).astype(np.uint8)
