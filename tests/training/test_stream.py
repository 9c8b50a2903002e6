"""Crops: what decides them, and that every worker has its part of the batch."""

from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from PIL import Image

from pipeline.data.classes import load_classes
from pipeline.data.datasets import Sample, pair
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.transforms.config import Augmentation
from pipeline.errors import UserError, find_user_error
from pipeline.training.examples import part_of_batch, permutation
from pipeline.training.loader import Batch, Loader
from pipeline.training.segmentation.class_weights import count, median_frequency
from pipeline.training.segmentation.crops import DrawCrops, sample_table

STRONG = Augmentation(crop=(32, 48), rotate=10, elastic=3, hue=20, blur=0.5, cutmix=0.5, copy_paste=0.5)


@pytest.fixture
def samples(scenes: str) -> list[Sample]:
    return pair(f"{scenes}/train/images", f"{scenes}/train/labels").samples[:9]


def drawer(scenes: str, *, seed: int = 0, augmentation: Augmentation = STRONG) -> DrawCrops:
    classes = load_classes(f"{scenes}/classes.yaml")
    return DrawCrops(augmentation=augmentation, classes=classes, preprocessing=Preprocessing(), seed=seed)


def test_a_crop_depends_on_seed_epoch_and_position_alone(scenes: str, samples: list[Sample]) -> None:
    table, draw = sample_table(samples), drawer(scenes)
    whole = draw(table, 0, range(12))
    for positions in (range(5, 7), range(11, 12)):
        part = drawer(scenes)(table, 0, positions)
        np.testing.assert_array_equal(part.pixels, whole.pixels[positions.start : positions.stop])
        np.testing.assert_array_equal(part.labels, whole.labels[positions.start : positions.stop])
        assert part.keys == whole.keys[positions.start : positions.stop]
    for other in (draw(table, 1, range(12)), drawer(scenes, seed=1)(table, 0, range(12))):
        assert not np.array_equal(other.pixels, whole.pixels)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
def test_workers_have_every_position_once(world: int) -> None:
    for step in (0, 7):
        parts = [part_of_batch(step, 8, rank, world) for rank in range(world)]
        assert [p for part in parts for p in part] == list(range(8 * step, 8 * step + 8))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_pass_of_an_epoch_shows_every_image_once(scenes: str, samples: list[Sample]) -> None:
    crops = drawer(scenes)(sample_table(samples), 0, range(18))
    assert sorted(crops.keys[:9]) == sorted(crops.keys[9:]) == sorted(sample.key for sample in samples)
    assert crops.keys[:9] != crops.keys[9:]
    first, second = permutation(0, 0, 0, 100), permutation(0, 1, 0, 100)
    assert sorted(first) == sorted(second) == list(range(100))
    assert list(first) != list(second)


def test_images_that_cannot_be_used_are_skipped_and_named(scenes: str, samples: list[Sample], tmp_path: Path) -> None:
    """An unreadable file, and a label map without a labelled pixel; the batch stays full."""
    broken, empty = tmp_path / "broken.png", tmp_path / "empty.png"
    broken.write_bytes(b"no image")
    Image.new("L", Image.open(samples[1].image).size, 255).save(empty)
    spoiled = [samples[0]._replace(image=str(broken)), samples[1]._replace(label=str(empty)), *samples[2:4]]
    crops = drawer(scenes)(sample_table(spoiled), 0, range(8))
    assert len(crops.pixels) == 8
    assert set(crops.keys) == {samples[2].key, samples[3].key}
    assert len(crops.skipped) == 2
    assert any(str(broken) in line for line in crops.skipped)
    assert f"{empty}: no pixel is labelled" in crops.skipped
    with pytest.raises(UserError, match="not one training image can be used"):
        drawer(scenes)(sample_table(spoiled[:2]), 0, range(1))


def loaded(draw: DrawCrops, samples: list[Sample], *, rank: int, world: int, epochs: list[int]) -> list[Batch]:
    loader = Loader(
        ray.put(draw),
        ray.put(sample_table(samples)),
        batch_size=10,
        rank=rank,
        world=world,
        device=torch.device("cpu"),
        tasks=4,
    )
    return list(loader(epochs=epochs, steps=3))


def test_the_parts_of_all_workers_are_the_batches_of_one(scenes: str, samples: list[Sample], ray_driver: None) -> None:
    alone = loaded(drawer(scenes), samples, rank=0, world=1, epochs=[4, 5])
    parts = [loaded(drawer(scenes), samples, rank=rank, world=3, epochs=[4, 5]) for rank in range(3)]
    assert len(alone) == 6
    for step, whole in enumerate(alone):
        assert whole.labels.dtype == torch.int64
        assert torch.equal(torch.cat([part[step].pixels for part in parts]), whole.pixels)
        assert torch.equal(torch.cat([part[step].labels for part in parts]), whole.labels)
        assert [key for part in parts for key in part[step].keys] == whole.keys
    later = loaded(drawer(scenes), samples, rank=0, world=1, epochs=[5])
    assert torch.equal(later[0].pixels, alone[3].pixels)


def test_a_users_mistake_in_a_task_reaches_the_worker(scenes: str, samples: list[Sample], ray_driver: None) -> None:
    other = samples[0]._replace(label=samples[0].image)  # colours that no class has
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        loaded(drawer(scenes), [other], rank=0, world=1, epochs=[0])
    mistake = find_user_error(caught.value)
    assert mistake is not None
    assert samples[0].image in str(mistake)
    assert "jobs/validate.py" in str(mistake)


def test_class_weights_are_counted_from_the_labels(scenes: str, ray_driver: None) -> None:
    """The Ray Data pass against one label map after the other."""
    classes = load_classes(f"{scenes}/classes.yaml")
    samples = pair(f"{scenes}/train/images", f"{scenes}/train/labels").samples
    pixels, shown = np.zeros((2, len(classes)), int)
    for sample in samples:
        labels = np.asarray(Image.open(sample.label))
        for k in range(len(classes)):
            pixels[k] += (labels == k).sum()
            shown[k] += (labels != 255).sum() if (labels == k).any() else 0
    found = count([*(s.label for s in samples), "/no/such/file.png"], classes)
    np.testing.assert_array_equal(found, [pixels, shown])
    weights = median_frequency(*found)
    assert weights[pixels.argmax()] < 1 < weights[pixels.argmin()]
