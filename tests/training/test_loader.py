"""Batches of several workers: each has its part, and together they are the batches of a single worker."""

from typing import Any

import pytest
import ray
import torch

from pipeline.data.classes import load_classes
from pipeline.data.datasets import Sample, pair
from pipeline.data.preprocessing import Preprocessing
from pipeline.data.transforms.config import Augmentation
from pipeline.errors import find_user_error
from pipeline.training.examples import part_of_batch, permutation
from pipeline.training.loader import Loader
from pipeline.training.segmentation.crops import DrawCrops, sample_table


@pytest.fixture
def samples(scenes: str) -> list[Sample]:
    return pair(f"{scenes}/train/images", f"{scenes}/train/labels").samples[:9]


@pytest.fixture
def draw(scenes: str) -> DrawCrops:
    augmentation = Augmentation(crop=(32, 48), cutmix=0.5)
    classes = load_classes(f"{scenes}/classes.yaml")
    return DrawCrops(augmentation=augmentation, classes=classes, preprocessing=Preprocessing(), seed=0)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
def test_workers_share_all_positions_evenly(world: int) -> None:
    for step in (0, 7):
        parts = [part_of_batch(step, 8, rank, world) for rank in range(world)]
        assert [p for part in parts for p in part] == list(range(8 * step, 8 * step + 8))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_epoch_has_its_own_permutation() -> None:
    first, second = permutation(0, 0, 0, 100), permutation(0, 1, 0, 100)
    assert sorted(first) == sorted(second) == list(range(100))
    assert list(first) != list(second)


def load(draw: DrawCrops, samples: list[Sample], *, rank: int, world: int, epochs: list[int]) -> list[Any]:
    loader = Loader(
        ray.put(draw),
        ray.put(sample_table(samples)),
        batch_size=10,
        rank=rank,
        world=world,
        device=torch.device("cpu"),
        max_tasks=4,
    )
    return list(loader(epochs=epochs, steps=3))


def test_the_parts_of_all_workers_are_the_batches_of_one(
    draw: DrawCrops, samples: list[Sample], ray_driver: None
) -> None:
    alone = load(draw, samples, rank=0, world=1, epochs=[4, 5])
    parts = [load(draw, samples, rank=rank, world=3, epochs=[4, 5]) for rank in range(3)]
    assert len(alone) == 6
    for step, batch in enumerate(alone):
        assert batch.labels.dtype == torch.int64
        assert torch.equal(torch.cat([part[step].pixels for part in parts]), batch.pixels)
        assert torch.equal(torch.cat([part[step].labels for part in parts]), batch.labels)
        assert [key for part in parts for key in part[step].keys] == batch.keys
    from_epoch_5 = load(draw, samples, rank=0, world=1, epochs=[5])
    assert torch.equal(from_epoch_5[0].pixels, alone[3].pixels)


def test_the_worker_receives_the_user_error_of_a_task(draw: DrawCrops, samples: list[Sample], ray_driver: None) -> None:
    mislabelled = samples[0]._replace(label=samples[0].image)  # its colours are not classes
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        load(draw, [mislabelled], rank=0, world=1, epochs=[0])
    mistake = find_user_error(caught.value)
    assert mistake is not None
    assert samples[0].image in str(mistake)
    assert "segpipe validate" in str(mistake)
