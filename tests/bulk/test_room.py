"""A device has room for some batches at a time, and a large image takes the room of several."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from pipeline.bulk.room import Room


def test_threads_never_hold_more_room_than_there_is_and_all_get_theirs():
    room, lock, held, most = Room(4), threading.Lock(), 0, 0

    def use(batches: int) -> None:
        nonlocal held, most
        with room.take(batches):
            count = min(batches, 4)
            with lock:
                held += count
                most = max(most, held)
            time.sleep(0.001)
            with lock:
                held -= count

    wanted = random.Random(0).choices([1, 2, 3, 4, 9], k=300)
    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(use, batches) for batches in wanted]:
            done.result(60)
    assert held == 0
    assert most == 4


def test_nobody_uses_the_device_while_one_has_all_of_it():
    room = Room(3)
    entered = threading.Event()

    def use() -> None:
        with room.take(1):
            entered.set()

    with ThreadPoolExecutor(1) as pool:
        with room.take_all():
            other = pool.submit(use)
            assert not entered.wait(0.2)
        other.result(60)
    assert entered.is_set()
