"""Marks on storage of the processes that compute a shard, so that the next one knows that they have ended.

Ray computes a shard again, without an end, when its process dies. It does not say why: an image may have crashed it,
the machine may have no memory left, or somebody may have removed the node. So a predictor leaves a mark when it begins
a shard, removes it when it is done with it, and counts the marks that others have left.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pipeline import faults, storage

MARKS = "_run/attempts"
DRIVERS_BEFORE_CARE = 3  # killed drivers leave marks too, but hardly so many at one shard
HOPELESS = 10  # processes of one driver that have ended while they computed a shard


class Deaths(NamedTuple):
    """Processes that have ended while they computed a shard.

    Attributes:
        now: Those of this driver.
        before: Those of earlier drivers, which may have been killed themselves.
    """

    now: int
    before: int

    @property
    def call_for_care(self) -> bool:
        """Whether the shard is to be computed in a process that may die of it."""
        return self.now > 0 or self.before >= DRIVERS_BEFORE_CARE


@contextmanager
def attempt(run: str, shard: int, driver: str) -> Iterator[Deaths]:
    """Mark a shard while it is computed.

    Args:
        run: Folder of the run.
        shard: Number of the shard.
        driver: Name of the driver, in letters and digits.

    Yields:
        The processes that have left their marks.
    """
    folder = storage.join(run, MARKS, f"{shard:05d}")
    mark = storage.join(folder, f"{driver}-{uuid.uuid4().hex}")
    with faults.store_faults(folder):
        drivers = [file.path.rsplit("/", 1)[-1].partition("-")[0] for file in storage.list_files(folder)]
        storage.write_bytes(mark, b"")
    try:
        yield Deaths(drivers.count(driver), len(drivers) - drivers.count(driver))
    finally:
        with faults.store_faults(folder):
            storage.remove(mark)
