"""Weights of classes in the loss: given in the configuration, or counted in the training labels on the cluster."""

import json

import numpy as np
from numpy.typing import NDArray

from pipeline import cluster, storage
from pipeline.data import images
from pipeline.data.classes import Classes
from pipeline.training.segmentation.config import TrainConfig

FILE = "class_weights.json"
CHUNK = 64  # label maps that a task reads


def class_weights(config: TrainConfig, classes: Classes, labels: list[str]) -> list[float] | None:
    """Return the weights that `config.loss` asks for, one per class, or None.

    Median frequencies are kept in the output, so that a resumed run does not count again.

    Args:
        config: Configuration of the run.
        classes: Classes of the data set.
        labels: URLs of the training label maps.
    """
    if not config.loss.median_frequency:
        return list(config.loss.class_weights) or None
    url = storage.join(config.output, FILE)
    if storage.exists(url):
        known = json.loads(storage.read_text(url, noun="class weights"))
    else:
        weights = median_frequency(*count(labels, classes))
        known = dict(zip(classes.names, weights.tolist(), strict=True))
        storage.write_bytes(url, json.dumps(known, indent=2).encode())
    return [known[name] for name in classes.names]


def median_frequency(pixels: NDArray[np.int64], image_pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the weights of median frequency balancing: median of the frequencies / frequency.

    Eigen & Fergus, ICCV 2015, section 6.3.2; SegNet.

    Args:
        pixels: int64 [classes], pixels of each class.
        image_pixels: int64 [classes], labelled pixels of the images in which the class occurs.

    Returns:
        float64 [classes]; 0 for a class that does not occur.
    """
    present = pixels > 0
    frequency = pixels[present] / image_pixels[present]
    weights = np.zeros(len(pixels))
    weights[present] = np.median(frequency) / frequency if present.any() else 0
    return weights


def count(labels: list[str], classes: Classes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the pixels of each class, and the labelled pixels of the label maps in which it occurs.

    Label maps that cannot be read do not count.

    Args:
        labels: URLs of label maps.
        classes: Classes of the data set.
    """
    calls = [(labels[i : i + CHUNK], classes) for i in range(0, len(labels), CHUNK)]
    sizes = [len(chunk) for chunk, _ in calls]
    total = np.zeros((2, len(classes)), np.int64)
    for counts in cluster.map_tasks(count_chunk, calls, sizes=sizes, unit="label maps", title="class frequencies"):
        total += counts
    return total[0], total[1]


def count_chunk(labels: list[str], classes: Classes) -> NDArray[np.int64]:
    """Count some label maps; the rows of the result are those of `count`."""
    pixels, image_pixels = np.zeros((2, len(classes)), np.int64)
    for url in labels:
        try:
            indices = classes.index(images.decode_raw_label(storage.read_bytes(url)))
        except (images.ImageError, OSError):
            continue
        counts = np.bincount(indices[(indices >= 0) & (indices < len(classes))], minlength=len(classes))
        pixels += counts
        image_pixels += (counts > 0) * counts.sum()
    return np.stack([pixels, image_pixels])
