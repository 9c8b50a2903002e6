"""Images that wait for others of their shape."""

import numpy as np

from pipeline.bulk.fetch import Fetched
from pipeline.bulk.waiting import Waiting


def test_an_image_that_waits_for_long_lets_go_of_the_memory_with_which_it_came():
    message = np.arange(12 * 10 * 10 * 3, dtype=np.uint8).reshape(12, 10, 10, 3)
    waiting = Waiting(patience=500)
    for i in range(12):
        waiting.add(i, Fetched(f"{i}.png", prepared=message[i], pixels=message[i]))
        if i % 2:
            waiting.take(i)
    for i in range(0, 12, 2):
        image = waiting.take(i)
        assert isinstance(image.prepared, np.ndarray)
        assert image.pixels is not None
        assert image.image_id == f"{i}.png"
        assert np.array_equal(image.prepared, message[i])
        assert np.array_equal(image.pixels, message[i])
        late = i < 6  # more than 500 pixels have come after it
        assert np.shares_memory(image.prepared, message) == (not late)
        assert np.shares_memory(image.pixels, message) == (not late)
