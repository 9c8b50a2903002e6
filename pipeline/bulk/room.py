"""The room of a device, which computes some batches at a time."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Room:
    """Lets threads use a device as long as there is room for their batches.

    Args:
        batches: Full batches for which there is room.
    """

    def __init__(self, batches: int):
        self._batches = batches
        self._free = threading.BoundedSemaphore(batches)
        self._waiting = threading.Lock()

    @contextmanager
    def take(self, batches: int) -> Iterator[None]:
        """Hold room for some batches, or all the room if it is less; wait for it in the order of arrival."""
        count = min(batches, self._batches)
        with self._waiting:  # one thread at a time takes: two that hold a half each would wait for each other for ever
            for _ in range(count):
                self._free.acquire()
        try:
            yield
        finally:
            self._free.release(count)

    @contextmanager
    def take_all(self) -> Iterator[None]:
        """Hold all the room, once nobody else uses the device."""
        with self.take(self._batches):
            yield
