"""Median frequency balancing of classes."""

import numpy as np
import pytest
from PIL import Image

from pipeline.data.classes import load_classes
from pipeline.data.datasets import pair
from pipeline.training.segmentation.class_weights import count, median_frequency


def test_median_frequency_by_hand() -> None:
    """Of two images with 10 labelled pixels each, class 1 is in one, classes 0 and 2 are in both, and 3 in neither."""
    weights = median_frequency(np.array([10, 2, 8, 0]), np.array([20, 10, 20, 0]))
    assert weights.tolist() == pytest.approx([0.4 / 0.5, 0.4 / 0.2, 1.0, 0.0])


def test_pixels_are_counted_in_all_label_maps(scenes: str, ray_driver: None) -> None:
    classes = load_classes(f"{scenes}/classes.yaml")
    samples = pair(f"{scenes}/train/images", f"{scenes}/train/labels").samples
    pixels, image_pixels = np.zeros((2, len(classes)), int)
    for sample in samples:
        labels = np.asarray(Image.open(sample.label))
        for k in range(len(classes)):
            pixels[k] += (labels == k).sum()
            image_pixels[k] += (labels != 255).sum() if (labels == k).any() else 0
    counts = count([*(s.label for s in samples), "/no/such/file.png"], classes)
    np.testing.assert_array_equal(counts, [pixels, image_pixels])
    weights = median_frequency(*counts)
    assert weights[pixels.argmax()] < 1 < weights[pixels.argmin()]
