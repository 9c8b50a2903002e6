"""Random boxes of images: true ones, and detections that find some of them."""

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.matching import Detections, Truth


def random_boxes(rng: np.random.Generator, n: int, *, side: int = 100, least: int = 0) -> NDArray[np.float64]:
    """Return boxes [n, 4] with integer corners in 0..side and sides of at least `least`."""
    corners = np.sort(rng.integers(0, side + 1 - least, (n, 2, 2)), axis=1).reshape(n, 4)
    corners[:, 2:] += least
    return corners.astype(np.float64)


def random_image(rng: np.random.Generator, *, num_classes: int, levels: int) -> tuple[Detections, Truth]:
    """Return the detections and the truth of an image, with ties in the scores and duplicated detections.

    Args:
        rng: Source of randomness.
        num_classes: Number of classes.
        levels: Number of different scores.
    """
    n = int(rng.integers(0, 8))
    boxes, labels = random_boxes(rng, n), rng.integers(0, num_classes, n)
    truth = Truth.of(boxes, labels, rng.random(n) < 0.2, rng.random(n) < 0.15)
    near = rng.integers(0, n, rng.integers(0, 12)) if n else np.zeros(0, int)
    shifted = boxes[near] + rng.integers(-6, 7, (len(near), 4))
    shifted = np.concatenate(
        [np.minimum(shifted[:, :2], shifted[:, 2:]), np.maximum(shifted[:, :2], shifted[:, 2:])], 1
    )
    other = int(rng.integers(0, 5))
    found = np.concatenate([shifted, random_boxes(rng, other)])
    of = np.concatenate([labels[near], rng.integers(0, num_classes, other)])
    twice = np.concatenate([np.arange(len(found)), np.arange(len(found))[:2]])
    return Detections.of(found[twice], of[twice], rng.integers(0, levels, len(twice)) / levels), truth
