"""Images and score maps for `benchmarks.crf`, drawn or made from photographs."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.cluster.vq import kmeans2
from scipy.ndimage import gaussian_filter, zoom

from pipeline.crf.params import CRFParams

STRIDE = 8
PARAMETER_SETS = {
    "S1": CRFParams(sigma_alpha=67, sigma_beta=3, w1=4),
    "S2": CRFParams(sigma_alpha=49, sigma_beta=5, w1=5),
    "S3": CRFParams(sigma_alpha=80, sigma_beta=13, w1=10),
}


class Scene(NamedTuple):
    """An image with its true classes and the scores of an imaginary network.

    Attributes:
        pixels: uint8 [height, width, 3].
        truth: int64 [height, width].
        scores: float32 [classes, ceil(height / 8), ceil(width / 8)].
    """

    pixels: NDArray[np.uint8]
    truth: NDArray[np.int64]
    scores: NDArray[np.float32]


def draw(width: int, height: int, *, classes: int, present: int, seed: int) -> Scene:
    """Draw an image after the dead-leaves model, with texture and camera noise.

    Overlapping ellipses of all sizes have the edges and the spectrum of photographs.
    """
    rng = np.random.default_rng(seed)
    colours = Image.new("RGB", (width, height))
    regions = Image.new("L", (width, height))
    paint, mark = ImageDraw.Draw(colours), ImageDraw.Draw(regions)
    for _ in range(250):
        radius = 12 / (1 - rng.random() * 0.95) ** 0.7
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        box = (x - radius, y - radius * rng.uniform(0.5, 1), x + radius, y + radius * rng.uniform(0.5, 1))
        paint.ellipse(box, fill=tuple(int(v) for v in rng.normal(128, 45, 3).clip(10, 245)))
        mark.ellipse(box, fill=int(rng.integers(present)))
    texture = sum(gaussian_filter(rng.normal(0, 1, (height, width)), s) * s for s in (1, 2, 4, 8, 16))
    rough = gaussian_filter(rng.random((height, width)), 40)
    rough = (rough - rough.min()) / np.ptp(rough)
    pixels = gaussian_filter(np.array(colours, np.float64), (0.7, 0.7, 0)) + (5 * rough * texture)[..., None]
    pixels += rng.normal(0, 1, pixels.shape)
    truth = np.array(regions, np.int64)
    return Scene(pixels.clip(0, 255).astype(np.uint8), truth, network_scores(truth, classes, rng))


def photograph(path: Path, width: int, height: int, *, classes: int, present: int, seed: int) -> Scene:
    """Load a photograph and take clusters of its colours and positions as classes."""
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    y, x = np.mgrid[:height:STRIDE, :width:STRIDE]
    colours = gaussian_filter(pixels.astype(np.float64), (6, 6, 0))[::STRIDE, ::STRIDE]
    features = np.concatenate([colours / 40, np.stack([x, y], axis=-1) / 160], axis=-1)
    _, labels = kmeans2(features.reshape(-1, 5), present, seed=seed, minit="++")
    truth = labels.reshape(y.shape).repeat(STRIDE, axis=0).repeat(STRIDE, axis=1)[:height, :width].astype(np.int64)
    return Scene(pixels, truth, network_scores(truth, classes, np.random.default_rng(seed)))


def network_scores(truth: NDArray[np.int64], classes: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return plausible scores of a network for the true classes.

    They are confident inside regions (probability 0.99), blurred at edges, and have errors that are correlated over
    about 30 pixels. The log-odds of wrong classes are -8 with a spread of about 1.5.
    """
    height, width = (-(-side // STRIDE) * STRIDE for side in truth.shape)
    padded = np.pad(truth, ((0, height - truth.shape[0]), (0, width - truth.shape[1])), mode="edge")
    scores = np.empty((classes, height // STRIDE, width // STRIDE), np.float32)
    for k in range(classes):
        share = (padded == k).reshape(height // STRIDE, STRIDE, width // STRIDE, STRIDE).mean(axis=(1, 3))
        scores[k] = 8 * gaussian_filter(share, 1) + 4 * gaussian_filter(rng.normal(0, 1, share.shape), 2)
    return scores[rng.permutation(classes)]


def probabilities_of(scene: Scene) -> NDArray[np.float32]:
    """Return the softmax of the interpolated scores, float32 [classes, height, width]."""
    height, width = scene.truth.shape
    full = zoom(scene.scores, (1, STRIDE, STRIDE), order=1, grid_mode=True, mode="nearest")[:, :height, :width]
    e = np.exp(full - full.max(axis=0))
    return e / e.sum(axis=0)
