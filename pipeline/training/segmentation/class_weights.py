"""Weights of classes in the loss: as given, or from their frequency in the training labels, by a Ray Data pass."""

import json

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from pipeline import storage
from pipeline.data import images
from pipeline.data.classes import Classes
from pipeline.training.config import TrainConfig

FILE = "class_weights.json"
CHUNK = 64  # label maps that a task reads


def class_weights(config: TrainConfig, classes: Classes, labels: list[str]) -> list[float] | None:
    """The weights that `config.loss` asks for, one for each class; None for none.

    Median frequencies are kept in the output, so that a resumed run does not count again.
    """
    if not config.loss.median_frequency:
        return list(config.loss.class_weights) or None
    url = storage.join(config.output, FILE)
    if storage.exists(url):
        known = json.loads(storage.read_text(url, what="class weights"))
    else:
        weights = median_frequency(*count(labels, classes))
        known = dict(zip(classes.names, weights.tolist(), strict=True))
        storage.write_bytes(url, json.dumps(known, indent=2).encode())
    return [known[name] for name in classes.names]


def median_frequency(pixels: NDArray[np.int64], shown: NDArray[np.int64]) -> NDArray[np.float64]:
    """Median frequency balancing (Eigen & Fergus, ICCV 2015, section 6.3.2; SegNet): median of frequencies / frequency.

    Args:
        pixels: int64 [classes], of each class.
        shown: int64 [classes], labelled pixels of the images in which it occurs.

    Returns:
        [classes]; 0 for a class that does not occur.
    """
    present = pixels > 0
    frequency = pixels[present] / shown[present]
    weights = np.zeros(len(pixels))
    weights[present] = np.median(frequency) / frequency if present.any() else 0
    return weights


def count(labels: list[str], classes: Classes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of each class, and labelled pixels of the label maps that show it; those that cannot be read do not count.

    Args:
        labels: URLs of label maps.
        classes: of the data set.
    """
    chunks = [{"labels": labels[i : i + CHUNK]} for i in range(0, len(labels), CHUNK)]

    def count_chunk(row: dict[str, list[str]]) -> dict[str, list[int]]:
        pixels, shown = np.zeros((2, len(classes)), np.int64)
        for url in row["labels"]:
            try:
                indices = classes.index(images.decode_raw_label(storage.read_bytes(url)))
            except (images.ImageError, OSError):
                continue
            counts = np.bincount(indices[(indices >= 0) & (indices < len(classes))], minlength=len(classes))
            pixels += counts
            shown += (counts > 0) * counts.sum()
        return {"pixels": pixels.tolist(), "shown": shown.tolist()}

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map(count_chunk).take_all()
    pixels, shown = (np.sum([row[name] for row in rows], axis=0) for name in ("pixels", "shown"))
    return pixels, shown
