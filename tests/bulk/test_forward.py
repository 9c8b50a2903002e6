"""A batch that fails is computed again, one image at a time."""

import gc
import weakref
from typing import Any

import numpy as np
import torch

from pipeline.bulk.fetch import Fetched
from pipeline.bulk.forward import forward


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
