"""Images that kill the process that computes them are identified and become error rows.

Ray retries a task whose process died for ever, and does not say which image it was. So a predictor leaves a mark on
storage before it computes a shard. Once marks without a result have piled up, the shard is computed image by image with
a mark for each, and an image whose mark process after process has left behind is convicted.
"""

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline import storage

MARKS = "_run/attempts"
# Drivers, nodes and networks die too, so neither bound is 1.
ATTEMPTS_BEFORE_CARE = 3
DEATHS_TO_CONVICT = 2


class Quarantine:
    """The marks of a run.

    Args:
        run: Folder of the run.
    """

    def __init__(self, run: str):
        self._marks = storage.join(run, MARKS)

    def begin(self, shard: int) -> dict[int, int] | None:
        """Mark an attempt at a shard.

        Returns:
            None if the shard may be computed as a whole; otherwise the number of processes that each of its images
            has ended.
        """
        folder = storage.join(self._marks, f"{shard:05d}")
        with storage.friendly_errors(folder, "cannot list"):
            names = [f.path.rsplit("/", 1)[-1] for f in storage.list_files(folder)]
        attempts = sum(name.startswith("shard-") for name in names)
        storage.write_bytes(storage.join(folder, f"shard-{uuid.uuid4().hex}"), b"")
        if attempts < ATTEMPTS_BEFORE_CARE:
            return None
        return dict(Counter(int(name.split("-")[1]) for name in names if name.startswith("image-")))

    @staticmethod
    def convicted(deaths: int) -> bool:
        """Tell whether an image that ended so many processes is left out."""
        return deaths >= DEATHS_TO_CONVICT

    @contextmanager
    def suspicion(self, shard: int, position: int) -> Iterator[None]:
        """Mark an image while it is computed; the mark stays if the process ends within."""
        mark = storage.join(self._marks, f"{shard:05d}", f"image-{position}-{uuid.uuid4().hex}")
        storage.write_bytes(mark, b"")
        yield
        storage.remove(mark)
