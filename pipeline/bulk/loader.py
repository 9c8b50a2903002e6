"""Images of a shard from the helper processes, in order and a bounded number of pixels ahead."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future

from pipeline.bulk.fetch import Failure, Fetched, Wanted
from pipeline.bulk.helper_process import Death
from pipeline.bulk.helpers import HelperPool

CHUNK_IMAGES = 8  # fetched by a call, so that messages cost little beside the images
CHUNK_BYTES = 4 * 2**20  # encoded; photographs have about a byte for three pixels
CALLS_AHEAD = 2  # for each process: it fetches for one call while it decodes for the other
PIXELS_AHEAD = 32_000_000
SECONDS = 900.0  # without an answer: longer than a store is retried, shorter than anyone waits


class Loader:
    """Fetches and decodes images ahead of their use.

    It begins carefully, because nobody knows how large the images are, and then goes by those that came last.

    Args:
        pool: Helper processes with an `ImageWorker`.
    """

    def __init__(self, pool: HelperPool):
        self._pool = pool
        self._pixels_of_call = float(PIXELS_AHEAD)

    def load(self, wanted: list[Wanted]) -> Iterator[Fetched]:
        """Yield some images in their order; one that ends its helper process has a failure."""
        waiting = deque(_chunks(wanted, images=len(wanted) // (CALLS_AHEAD * len(self._pool))))
        running: deque[tuple[list[Wanted], Future]] = deque()
        while waiting or running:
            ahead = max(1, min(CALLS_AHEAD * len(self._pool), int(PIXELS_AHEAD / self._pixels_of_call)))
            while waiting and len(running) < ahead:
                running.append(self._submit(waiting.popleft()))
            chunk, future = running.popleft()
            fetched = [_fetched(one, result) for one, result in zip(chunk, future.result(), strict=False)]
            pixels = sum((one.width or 0) * (one.height or 0) for one in fetched)
            self._pixels_of_call = max(1, pixels, self._pixels_of_call / 2)
            if len(fetched) < len(chunk):
                running.appendleft(self._submit(chunk[len(fetched) :]))
            yield from fetched

    def _submit(self, chunk: list[Wanted]) -> tuple[list[Wanted], Future]:
        return chunk, self._pool.submit("fetch", chunk, seconds=SECONDS)


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
