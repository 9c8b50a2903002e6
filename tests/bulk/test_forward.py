"""A batch that fails is computed again, one image at a time."""

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.bulk.fetch import Fetched
from pipeline.bulk.forward import ForwardWorker, forward, load
from pipeline.errors import IncompleteError


class FailsOnBatches:
    """Stands for a predictor that has memory for one image."""

    def __init__(self):
        self.held: list[weakref.ref] = []
        self.alive: list[int] = []
        self.freed = 0

    def __call__(self, images, truths):
        self.alive.append(sum(tensor() is not None for tensor in self.held))
        batch = torch.zeros(len(images), 8)
        self.held.append(weakref.ref(batch))
        if len(images) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return [float(images[0][0, 0, 0])]

    def free_memory(self):
        self.freed += 1

    def is_lost(self):
        return False


class OnCPU:
    """Stands for a kind of run whose predictor finds no GPU."""

    def load_predictor(self, images):
        return SimpleNamespace(device_name="cpu", batch_pixels=0)


def test_a_cpu_does_not_take_the_place_of_a_gpu():
    kind: Any = OnCPU()
    assert load(kind, 3, use_gpu=False).device_name == "cpu"
    with pytest.raises(IncompleteError, match="CUDA finds no usable GPU"):
        load(kind, 3, use_gpu=True)
    with pytest.raises(IncompleteError, match="cannot be loaded beside the predictor: CUDA finds no usable GPU"):
        ForwardWorker(kind, images=3, batch_pixels=9, use_gpu=True).forward([])


def test_the_memory_of_a_failed_batch_is_free_when_its_images_are_computed_alone():
    predictor: Any = FailsOnBatches()
    images = [Fetched(f"{i}.png", prepared=np.full((4, 4, 3), i, np.uint8)) for i in range(3)]
    gc.disable()
    try:
        predicted = forward(predictor, images)
    finally:
        gc.enable()
    assert [one.result for one in predicted] == [0.0, 1.0, 2.0]
    assert predictor.alive == [0, 0, 0, 0]
    assert predictor.freed == 1
