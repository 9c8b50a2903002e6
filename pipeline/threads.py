"""Work in threads whose results are used as they come, so that few of them wait in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, TypeVar

THREADS = 16  # requests to a store at a time

T = TypeVar("T")
R = TypeVar("R")


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Call a function on each item in threads, at most `THREADS` items ahead.

    Yields:
        The results, in the order of the items.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        running: deque[Any] = deque()
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) == THREADS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def interleave(sources: Iterable[Iterator[T]]) -> Iterator[T]:
    """Advance up to `THREADS` iterators in threads, each by one item at a time.

    Yields:
        The items of all iterators; those of one iterator in its order, the others in between.
    """
    waiting = iter(sources)
    end = object()
    with ThreadPoolExecutor(THREADS) as pool:

        def advance(source: Iterator[T]) -> None:
            running[pool.submit(next, source, end)] = source

        running: dict[Any, Iterator[T]] = {}
        for source in islice(waiting, THREADS):
            advance(source)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                source = running.pop(future)
                item: Any = future.result()
                if item is not end:
                    advance(source)
                    yield item
                elif (following := next(waiting, None)) is not None:
                    advance(following)
