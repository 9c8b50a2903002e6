"""Training crops: what decides them, and which images are used."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.classes import load_classes
from pipeline.data.datasets import Sample, pair
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.transforms.config import Augmentation
from pipeline.errors import UserError
from pipeline.training.segmentation.crops import DrawCrops, sample_table

AUGMENTATION = Augmentation(crop=(32, 48), rotate=10, elastic=3, hue=20, blur=0.5, cutmix=0.5, copy_paste=0.5)


@pytest.fixture
def samples(scenes: str) -> list[Sample]:
    return pair(f"{scenes}/train/images", f"{scenes}/train/labels").samples[:9]


def build(scenes: str, *, seed: int = 0) -> DrawCrops:
    classes = load_classes(f"{scenes}/classes.yaml")
    return DrawCrops(augmentation=AUGMENTATION, classes=classes, preprocessing=Preprocessing(), seed=seed)


def test_a_crop_depends_on_seed_epoch_and_position_alone(scenes: str, samples: list[Sample]) -> None:
    table, draw = sample_table(samples), build(scenes)
    epoch = draw(table, 0, range(12))
    for positions in (range(5, 7), range(11, 12)):
        part = build(scenes)(table, 0, positions)
        np.testing.assert_array_equal(part.pixels, epoch.pixels[positions.start : positions.stop])
        np.testing.assert_array_equal(part.labels, epoch.labels[positions.start : positions.stop])
        assert part.keys == epoch.keys[positions.start : positions.stop]
    for different in (draw(table, 1, range(12)), build(scenes, seed=1)(table, 0, range(12))):
        assert not np.array_equal(different.pixels, epoch.pixels)


def test_every_pass_of_an_epoch_uses_every_image_once(scenes: str, samples: list[Sample]) -> None:
    crops = build(scenes)(sample_table(samples), 0, range(18))
    assert sorted(crops.keys[:9]) == sorted(crops.keys[9:]) == sorted(sample.key for sample in samples)
    assert crops.keys[:9] != crops.keys[9:]


def test_unusable_images_are_replaced_and_reported(scenes: str, samples: list[Sample], tmp_path: Path) -> None:
    """One image is unreadable, and the label map of another has no labelled pixel; the batch stays full."""
    broken, empty = tmp_path / "broken.png", tmp_path / "empty.png"
    broken.write_bytes(b"no image")
    Image.new("L", Image.open(samples[1].image).size, 255).save(empty)
    unusable = [samples[0]._replace(image=str(broken)), samples[1]._replace(label=str(empty))]
    crops = build(scenes)(sample_table([*unusable, *samples[2:4]]), 0, range(8))
    assert len(crops.pixels) == 8
    assert set(crops.keys) == {samples[2].key, samples[3].key}
    assert len(crops.skipped) == 2
    assert any(str(broken) in line for line in crops.skipped)
    assert f"{empty}: no pixel is labelled" in crops.skipped
    with pytest.raises(UserError, match=r"none of the \d+ training images can be used, the first problem: "):
        build(scenes)(sample_table(unusable), 0, range(1))
