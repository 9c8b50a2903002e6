"""Bounded work in threads."""

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.threads import THREADS, in_order, interleave


def test_results_come_in_order_and_few_items_ahead():
    started: list[int] = []

    def work(i: int) -> int:
        time.sleep(0.002 * (i % 3))
        return i * i

    def items() -> Iterator[int]:
        for i in range(100):
            started.append(i)
            yield i

    for i, result in enumerate(in_order(work, items())):
        assert result == i * i
        assert len(started) <= i + THREADS
    assert len(started) == 100
    assert list(in_order(work, [])) == []


def test_iterators_are_advanced_side_by_side():
    """The iterators wait for each other: one after the other, they would never end."""
    all_started = threading.Barrier(THREADS, timeout=30)

    def source(i: int) -> Iterator[tuple[int, int]]:
        if i < THREADS:
            all_started.wait()
        yield from ((i, j) for j in range(i % 4))

    found = list(interleave(map(source, range(3 * THREADS))))
    assert sorted(found) == [(i, j) for i in range(3 * THREADS) for j in range(i % 4)]
    for i in range(3 * THREADS):
        assert [j for k, j in found if k == i] == list(range(i % 4))


def test_a_failure_ends_the_work():
    def fail(i: int) -> int:
        if i == 3:
            raise OSError("no answer")
        return i

    def source(i: int) -> Iterator[int]:
        yield fail(i)

    with pytest.raises(OSError, match="no answer"):
        list(in_order(fail, range(100)))
    with pytest.raises(OSError, match="no answer"):
        list(interleave(map(source, range(100))))


def test_few_iterators_are_open_at_a_time():
    opened: list[int] = []

    def source(i: int) -> Iterator[int]:
        yield i

    def sources() -> Iterator[Iterator[int]]:
        for i in range(200):
            opened.append(i)
            yield source(i)

    for count, _ in enumerate(interleave(sources())):
        assert len(opened) <= count + 1 + 2 * THREADS
