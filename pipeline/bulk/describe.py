"""The columns of predicted images, computed in helper processes: masks and counts, after the dense CRF if any."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple

from pipeline.bulk.fetch import Failure, Fetched
from pipeline.bulk.helper_process import Death
from pipeline.bulk.helpers import HelperPool
from pipeline.bulk.image_worker import Predicted

IMAGES_AT_A_TIME = 8  # in a call, so that messages cost little beside the images
CALLS_AHEAD = 4  # for each process
PIXELS_WAITING = 32_000_000  # in calls that are not answered
SECONDS, SECONDS_PER_MEGAPIXEL = 600.0, 100.0  # without an answer; a dense CRF takes seconds for a megapixel

Batches = Iterable[list[tuple[int, Predicted]]]  # positions in the shard, and the images


class Described(NamedTuple):
    """An image whose row is computed.

    Attributes:
        fetched: The image without its pixels.
        columns: Columns that belong to the kind of run, or why there are none.
        infer_ms: Milliseconds of the forward pass; None if there was none.
        describe_ms: Milliseconds that the columns took.
    """

    fetched: Fetched
    columns: dict[str, Any] | Failure
    infer_ms: float | None
    describe_ms: float


def describe(batches: Batches, pool: HelperPool, *, stage: str) -> Iterator[tuple[int, Described]]:
    """Describe images while the next ones are predicted.

    Args:
        batches: Predicted images.
        pool: Helper processes with an `ImageWorker`.
        stage: Stage of the error row of an image that ends its helper process.

    Yields:
        Each image with its position, in no particular order.
    """
    running: deque[tuple[list[tuple[int, Predicted]], int, Future]] = deque()
    for batch in batches:
        for i, one in batch:
            if one.fetched.failure is not None:
                yield i, Described(one.fetched, one.fetched.failure, None, 0.0)
        some = [(i, one) for i, one in batch if one.fetched.failure is None]
        size = max(1, min(IMAGES_AT_A_TIME, math.ceil(len(some) / len(pool))))
        for start in range(0, len(some), size):
            chunk = some[start : start + size]
            pixels = sum(pixels_of(one.fetched) for _, one in chunk)
            seconds = SECONDS + SECONDS_PER_MEGAPIXEL * pixels / 1e6
            running.append((chunk, pixels, pool.submit("describe", [one for _, one in chunk], seconds=seconds)))
            while running and (
                running[0][2].done()
                or len(running) > CALLS_AHEAD * len(pool)
                or sum(waiting for _, waiting, _ in running) > PIXELS_WAITING
            ):
                yield from _answers(*running.popleft(), stage)
    while running:
        yield from _answers(*running.popleft(), stage)


def pixels_of(fetched: Fetched) -> int:
    """Return the number of pixels of an image; 0 if it could not be decoded."""
    return (fetched.width or 0) * (fetched.height or 0)


def _answers(chunk: list[tuple[int, Predicted]], _: int, future: Future, stage: str) -> Iterator[tuple[int, Described]]:
    for (i, one), answer in zip(chunk, future.result(), strict=True):
        columns, milliseconds = (Failure.death(stage, answer.cause), 0.0) if isinstance(answer, Death) else answer
        yield i, Described(replace(one.fetched, pixels=None), columns, one.infer_ms, milliseconds)
