"""The memory that two processes share: pieces are reused when they are free, and never before."""

import gc
import socket
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bulk import arena
from pipeline.bulk.arena import PIECES, Inbox, Outbox
from pipeline.bulk.transport import Channel


def both_sides(size: int) -> tuple[Outbox, Inbox]:
    memory = np.zeros(PIECES + size, np.uint8)
    return Outbox(memory), Inbox(memory)


def put(outbox: Outbox, size: int, value: int = 1):
    return outbox.put([memoryview(bytes([value]) * size)])


@settings(deadline=None, max_examples=200)
@given(
    steps=st.lists(st.tuples(st.integers(1, 500), st.integers(0, 9), st.booleans()), max_size=80),
    size=st.sampled_from([512, 1024, 4096]),
)
def test_a_piece_keeps_its_bytes_until_nobody_uses_them(steps: list[tuple[int, int, bool]], size: int):
    """Pieces of any size are taken, and freed in any order; each used one holds what was put into it."""
    outbox, inbox = both_sides(size)
    used: dict[int, memoryview] = {}
    for value, (length, victim, frees) in enumerate(steps):
        piece = put(outbox, length, value % 251)
        if piece is not None:
            used[value] = inbox.view(piece, length)
        if frees and used:
            del used[list(used)[victim % len(used)]]
        for number, view in used.items():
            assert set(view) == {number % 251}


def test_all_the_memory_is_used_again():
    outbox, inbox = both_sides(1024)
    views = [inbox.view(piece, 256) for _ in range(4) if (piece := put(outbox, 256))]
    assert len(views) == 4
    assert put(outbox, 1) is None, "full"
    middle = views.pop(1)
    del middle
    assert put(outbox, 1) is None, "the first piece is in use still"
    views.pop(0)
    piece = put(outbox, 256)
    assert piece is not None, "both are free now"
    views.append(inbox.view(piece, 256))
    views.clear()
    assert put(outbox, 1000) is not None


def test_an_array_of_a_message_keeps_the_piece():
    outbox, inbox = both_sides(4096)
    ours, theirs = socket.socketpair()
    sender, receiver = Channel(ours, outbox=outbox), Channel(theirs, inbox=inbox)
    for i in range(20):  # several times around
        sender.send([np.full(700, i, np.uint8), np.arange(50)])
        first, second = receiver.receive()
        del second
        assert first.tolist() == [i] * 700
    kept = [first]
    for i in range(20, 40):  # one array is kept, so that the memory fills: further messages travel by files
        sender.send(np.full(700, i, np.uint8))
        kept.append(receiver.receive())
    assert [array[0] for array in kept] == list(range(19, 40))
    kept[-1][:] = 0  # writable
    kept.clear()
    del first
    gc.collect()
    assert put(outbox, 4000) is not None


def test_many_threads_send_through_one_channel():
    outbox, inbox = both_sides(1 << 16)
    ours, theirs = socket.socketpair()
    sender, receiver = Channel(ours, outbox=outbox), Channel(theirs, inbox=inbox)

    def send(value: int) -> None:
        for _ in range(50):
            sender.send((value, np.full(1000 + value, value, np.uint8)))

    threads = [threading.Thread(target=send, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(8 * 50):
        value, array = receiver.receive()
        assert len(array) == 1000 + value
        assert set(array) == {value}
    for thread in threads:
        thread.join()


def test_shared_memory_is_seen_by_both_mappings():
    descriptor = arena.create(1024)
    if descriptor is None:
        pytest.skip("no files in memory on this system")
    outbox, inbox = Outbox(arena.attach(descriptor)), Inbox(arena.attach(descriptor))
    piece = put(outbox, 100, 7)
    assert piece is not None
    view = inbox.view(piece, 100)
    assert set(view) == {7}
    assert put(outbox, 1000) is None
    del view
    assert put(outbox, 1000) is not None
