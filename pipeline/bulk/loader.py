"""Images of a shard from the helper processes, in order and a bounded number of pixels ahead."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future

from pipeline.bulk.fetch import ENOUGH_PIXELS, Failure, Fetched, Wanted
from pipeline.bulk.helpers import Death, HelperPool

CHUNK_IMAGES = 8  # fetched by a call, so that messages cost little beside the images
CHUNK_BYTES = 4 * 2**20  # encoded; photographs have about a byte for three pixels
CALLS_AHEAD = 2  # for each process: it fetches for one call while it decodes for the other
PIXELS_AHEAD = 32_000_000
SECONDS = 900.0  # without an answer: longer than a store is retried, shorter than anyone waits


def load(wanted: list[Wanted], pool: HelperPool) -> Iterator[Fetched]:
    """Fetch and decode images ahead of their use.

    Args:
        wanted: The images.
        pool: Helper processes with an `ImageWorker`.

    Yields:
        The images, in their order. One that ends its process has a failure.
    """
    waiting = deque(_chunks(wanted, images=len(wanted) // (CALLS_AHEAD * len(pool))))
    running: deque[tuple[list[Wanted], Future]] = deque()
    pixels_of_call = ENOUGH_PIXELS  # as the last call returned
    while waiting or running:
        ahead = max(1, min(CALLS_AHEAD * len(pool), PIXELS_AHEAD // max(1, pixels_of_call)))
        while waiting and len(running) < ahead:
            chunk = waiting.popleft()
            running.append((chunk, pool.submit("fetch", chunk, seconds=SECONDS)))
        chunk, future = running.popleft()
        fetched = [_fetched(one, result) for one, result in zip(chunk, future.result(), strict=False)]
        pixels_of_call = sum((one.width or 0) * (one.height or 0) for one in fetched)
        if len(fetched) < len(chunk):
            left = chunk[len(fetched) :]
            running.appendleft((left, pool.submit("fetch", left, seconds=SECONDS)))
        yield from fetched


def _chunks(wanted: list[Wanted], *, images: int) -> Iterator[list[Wanted]]:
    most = max(1, min(CHUNK_IMAGES, images))  # so that all processes have some of a small shard
    chunk: list[Wanted] = []
    total = 0
    for one in wanted:
        size = one.image["bytes"]
        if chunk and (len(chunk) >= most or total + size > CHUNK_BYTES):
            yield chunk
            chunk, total = [], 0
        chunk.append(one)
        total += size
    yield chunk


def _fetched(wanted: Wanted, result: Fetched | Death) -> Fetched:
    if not isinstance(result, Death):
        return result
    failure = Failure.death("decode", result.cause)
    return Fetched(wanted.image["image_id"], wanted.image["truth"], failure)
