"""Helper processes: what they return, and which item they blame when they die."""

import ctypes
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.bulk.helper_process import Death, HelperDied
from pipeline.bulk.helpers import HelperPool
from pipeline.bulk.transport import Channel, Closed
from pipeline.errors import IncompleteError


class Target:
    """Methods for helper processes; some numbers are deadly."""

    def double(self, items: list[Any]) -> list[Any]:
        return [2 * item for item in items]

    def survive(self, items: list[int]) -> list[int]:
        for item in items:
            if item == 13:
                ctypes.string_at(0)  # reads address 0
            if item == 31:
                os._exit(3)
        return items

    def hang_at(self, items: list[int]) -> list[int]:
        if 7 in items:
            time.sleep(600)
        return items

    def pid(self, items: list[None]) -> list[int]:
        return [os.getpid() for _ in items]

    def unreadable(self, items: list) -> list:
        return [Unreadable() for _ in items]

    def unsendable(self, items: list) -> list:
        return [threading.Lock() for _ in items]

    def die(self, items: list[int]) -> list:
        os.kill(os.getpid(), items[0])
        return items

    def fail(self, items: list) -> list:
        raise KeyError("no such thing")


class Unreadable:
    """A result that the worker cannot unpickle."""

    def __reduce__(self):
        return int, ("no number",)


class Unloadable:
    """An object that no process can unpickle."""

    def __reduce__(self):
        return os._exit, (9,)


class Unlucky:
    """An object whose processes are killed before they take a call, as if memory were short."""

    def __reduce__(self):
        return os.system, ("kill -KILL $PPID",)


@pytest.fixture
def pool():
    pool = HelperPool(Target(), processes=2, threads=2)
    yield pool
    pool.close()


def test_arrays_cross_unchanged_in_both_directions(pool):
    generator = np.random.default_rng(0)
    arrays: list[Any] = [
        generator.integers(0, 256, (300, 200, 3), dtype=np.uint8),
        generator.random((0, 4)),
        generator.random((5, 7)).astype(np.float16)[:, ::2],
        np.asfortranarray(generator.random((6, 2))),
    ]
    for array, doubled in zip(arrays, pool.submit("double", arrays, seconds=60).result(), strict=True):
        np.testing.assert_array_equal(doubled, 2 * array)
        doubled += 1  # what arrives is writable


def test_calls_leave_no_descriptors_open(pool):
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    image = np.zeros((100, 100), np.uint8)
    pool.submit("double", [image], seconds=60).result()
    before = count()
    for _ in range(50):
        pool.submit("double", [image], seconds=60).result()
    assert count() <= before + 2


def test_half_a_message_leaves_no_descriptor_open(tmp_path):
    ours, theirs = socket.socketpair()
    file = tmp_path / "file"
    with file.open("wb") as sent, theirs:
        socket.send_fds(theirs, [b"header"], [sent.fileno()])
    with ours, pytest.raises(Closed):
        Channel(ours).receive()
    assert file not in [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]


def test_a_deadly_item_is_blamed_alone(pool):
    calls = [pool.submit("survive", list(range(i, i + 8)), seconds=60) for i in range(0, 40, 8)]
    found = [result for call in calls for result in call.result()]
    assert [x for x in found if not isinstance(x, Death)] == [i for i in range(40) if i not in (13, 31)]
    assert "SIGSEGV" in found[13].cause
    assert found[31].cause == "exit code 3"


def test_the_processes_import_what_their_worker_imports(tmp_path, monkeypatch):
    (tmp_path / "pipeline.py").write_text("raise ImportError('another one')")
    monkeypatch.chdir(tmp_path)
    pool = HelperPool(Target(), processes=1, threads=1)
    assert pool.submit("double", [1], seconds=60).result() == [2]
    pool.close()


def test_an_item_that_hangs_is_blamed(pool):
    found = pool.submit("hang_at", [6, 7, 8], seconds=1).result()
    assert (found[0], found[2]) == (6, 8)
    assert "no end after 1 s" in found[1].cause


def test_a_process_that_is_killed_from_outside_condemns_nobody(pool):
    """The calls that were lost are repeated, and the process is replaced."""
    victims = {pool.submit("pid", [None], seconds=60).result()[0] for _ in range(8)}
    calls = [pool.submit("survive", [i], seconds=60) for i in range(6)]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    assert [call.result() for call in calls] == [[i] for i in range(6)]
    assert pool.submit("survive", [1, 2], seconds=60).result() == [1, 2]


def test_what_a_method_raises_arrives(pool):
    with pytest.raises(KeyError, match="no such thing"):
        pool.submit("fail", [1], seconds=60).result()


def test_an_answer_that_cannot_be_read_is_an_error_and_nobody_waits(pool):
    with pytest.raises(ValueError, match="no number"):
        pool.submit("unreadable", [1], seconds=60).result(timeout=60)
    assert pool.submit("double", [1], seconds=60).result(timeout=60) == [2]


def test_an_answer_that_cannot_be_sent_is_an_error_and_nobody_waits(pool):
    with pytest.raises(IncompleteError, match=r"cannot send its answer .*lock"):
        pool.submit("unsendable", [1], seconds=600).result(timeout=60)


def test_a_process_that_dies_while_it_is_sent_a_call_is_replaced(pool):
    large = [np.ones(60_000_000, np.uint8)]
    for _ in range(4):
        pool.submit("double", [1], seconds=60).result()
        helper = min(pool._helpers, key=lambda one: one.load)
        threading.Timer(0.01, helper._process.kill).start()
        assert len(pool.submit("double", large, seconds=60).result()[0]) == len(large[0])


def test_what_has_been_answered_is_kept_by_nobody(pool):
    image = np.ones(70_000_000, np.uint8)  # too large for the memory that is always mapped

    def mapped() -> int:
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:segpipe" in line]
        sizes = [int(end, 16) - int(start, 16) for start, end in (line[0].split("-") for line in maps)]
        return sum(size >= image.nbytes for size in sizes)

    calls = [pool.submit("double", [image], seconds=60) for _ in range(2)]
    assert sum(len(call.result()[0]) for call in calls) == 2 * len(image)
    assert mapped() == 2
    del calls
    deadline = time.monotonic() + 30
    while mapped() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert mapped() == 0


def test_signals_without_a_name_have_their_number(pool):
    (death,) = pool.submit("die", [39], seconds=60).result(timeout=60)
    assert death.cause == "signal 39, a crash in a library"


def test_calls_of_a_pool_that_is_closed_end():
    pool = HelperPool(Target(), processes=1, threads=1)
    call = pool.submit("hang_at", [7], seconds=60)
    pool.close()
    with pytest.raises(HelperDied):
        call.result(timeout=60)


@pytest.mark.parametrize("target", [Unloadable, Unlucky])
def test_a_process_that_cannot_start_blames_no_item(target):
    pool = HelperPool(target(), processes=1, threads=1)
    with pytest.raises(IncompleteError, match="does not start"):
        pool.submit("double", [1], seconds=60).result()
    pool.close()


def test_the_processes_end_with_their_worker():
    """They notice the closed connection, even if the worker was killed and could not end them."""
    reading, writing = os.pipe()
    worker = os.fork()
    if worker == 0:
        pool = HelperPool(Target(), processes=1, threads=1)
        os.write(writing, str(pool.submit("pid", [None], seconds=60).result()[0]).encode())
        signal.pause()
    helper = int(os.read(reading, 20))
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{helper}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{helper}")
