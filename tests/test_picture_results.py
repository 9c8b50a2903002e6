"""The results of models for pictures, as text and as files."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import Classification, Detection, Segmentation
from pipeline.data.images import decode_mask, encode_mask
from pipeline.errors import UserError

PIXELS = np.zeros((4, 10, 3), np.uint8)
PALETTE = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)


def segmentation() -> Segmentation:
    labels = np.zeros((4, 10), np.uint8)
    labels[1:] = 1
    return Segmentation(labels, 0.934, 0.1, ("sky", "road", "car"), PALETTE, PIXELS, encode_mask(labels, PALETTE))


def test_a_segmentation_is_described_by_its_classes() -> None:
    assert repr(segmentation()) == "<Segmentation of 10x4 pixels: road 75.0%, sky 25.0%, mean confidence 0.93>"


def test_a_classification_is_described_by_what_is_found() -> None:
    result = Classification(
        {"cat": 0.9, "dog": 0.05}, ("cat",), {"cat": np.zeros((4, 10), np.float32)}, {}, None, (), PIXELS
    )
    assert repr(result) == "<Classification of 10x4 pixels: cat 0.90>"
    assert repr(Classification({"cat": 0.1}, (), {}, {}, None, (), PIXELS)).endswith(": nothing found>")


def test_a_detection_is_described_by_its_best_objects() -> None:
    scores = np.linspace(0.99, 0.5, 12, dtype=np.float32)
    result = Detection(np.zeros((12, 4), np.float32), ("car",) * 12, scores, {"car": (1, 2, 3)}, PIXELS)
    assert repr(result).startswith("<Detection of 10x4 pixels: car 0.99, car 0.95, ")
    assert repr(result).endswith(", 2 more>")


@pytest.mark.parametrize("name", ["m.jpg", "m.JPEG", "m.webp", "m.npy"])
def test_labels_are_not_saved_under_the_name_of_another_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"/{name}: labels are saved as PNG; name a file \.png, not "):
        segmentation().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["m.png", "m.PNG", "m"])
def test_labels_are_saved_as_png(tmp_path: Path, name: str) -> None:
    segmentation().save(tmp_path / name)
    np.testing.assert_array_equal(decode_mask((tmp_path / name).read_bytes()), segmentation().labels)
