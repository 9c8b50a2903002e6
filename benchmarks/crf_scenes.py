"""Pictures and score maps for `benchmarks.crf`: drawn ones, or photographs from a folder."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.cluster.vq import kmeans2
from scipy.ndimage import gaussian_filter

STRIDE = 8


class Scene(NamedTuple):
    """A picture, uint8 [height, width, 3]; its true classes [height, width]; and a network's scores, float32 [classes,
    ceil(height / 8), ceil(width / 8)]."""

    pixels: NDArray[np.uint8]
    truth: NDArray[np.int64]
    scores: NDArray[np.float32]


def draw(width: int, height: int, *, classes: int, present: int, seed: int) -> Scene:
    """Dead leaves: discs of all sizes upon each other, which have the edges and the spectrum of photographs, each with
    a texture and all with a camera's noise."""
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
    """A photograph, with clusters of its colours and places for classes."""
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
    y, x = np.mgrid[:height:STRIDE, :width:STRIDE]
    colours = gaussian_filter(pixels.astype(np.float64), (6, 6, 0))[::STRIDE, ::STRIDE]
    features = np.concatenate([colours / 40, np.stack([x, y], axis=-1) / 160], axis=-1)
    _, labels = kmeans2(features.reshape(-1, 5), present, seed=seed, minit="++")
    truth = labels.reshape(y.shape).repeat(STRIDE, axis=0).repeat(STRIDE, axis=1)[:height, :width].astype(np.int64)
    return Scene(pixels, truth, network_scores(truth, classes, np.random.default_rng(seed)))


def network_scores(truth: NDArray[np.int64], classes: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """What a network might say: sure inside of regions (probability .99), blurred at their edges, with errors that are
    correlated over some 30 pixels, and wrong classes at odds of e^-8 give or take e^1.5."""
    height, width = (-(-side // STRIDE) * STRIDE for side in truth.shape)
    padded = np.pad(truth, ((0, height - truth.shape[0]), (0, width - truth.shape[1])), mode="edge")
    scores = np.empty((classes, height // STRIDE, width // STRIDE), np.float32)
    for k in range(classes):
        share = (padded == k).reshape(height // STRIDE, STRIDE, width // STRIDE, STRIDE).mean(axis=(1, 3))
        scores[k] = 8 * gaussian_filter(share, 1) + 4 * gaussian_filter(rng.normal(0, 1, share.shape), 2)
    return scores[rng.permutation(classes)]
