"""Shards: how a plan is cut into them, and the files that hold their results."""

import itertools
import posixpath
import re
from collections import deque
from collections.abc import Iterable, Iterator

from pipeline import storage
from pipeline.bulk.config import Sharding

PARTS_FOLDER = "_run/parts"  # where shards are written, each as a file of its own
IMAGES = "images"  # where the driver that finishes the run puts their rows; nobody else writes there
SMALLEST, LARGEST = 4, 256  # images in a shard
PARTS = 32  # shards of a list of 128 to 8,192 images, if the last ones were not smaller
LAST, SMALLER = 4, 4  # the images of so many shards at the end are in so many times smaller ones
BYTES = 32 * 2**20
FINE_SHARDS = 10_000  # of up to 2.56 million images
COARSE = 8
SLOW = 64  # images in a shard if each takes long: its task is done in minutes, and its block fits into memory
_PART = re.compile(r"part-(\d+)\.parquet")


def cut_shards(sizes: Iterable[int], sharding: Sharding, *, slow: bool = False) -> Iterator[int]:
    """Yield the shard of each image: consecutive images, closed before either bound would be crossed.

    By default, a short list is cut into enough shards to share out and to resume from, and a shard of a long one costs
    little more than its images. After `FINE_SHARDS` shards, both bounds are `COARSE` times as large. The last shards
    are smaller, so that the predictors end at about the same time.

    Args:
        sizes: Encoded bytes of each image; 0 where unknown. At most 8,192 are read ahead.
        sharding: The bounds. An image larger than `max_bytes` is a shard of its own.
        slow: Whether an image takes about a second or more of a CPU; the shards have at most `SLOW` images.
    """
    sizes = iter(sizes)
    largest = SLOW if slow else LARGEST
    ahead = deque(itertools.islice(sizes, LARGEST * PARTS))
    usual = min(largest, max(SMALLEST, len(ahead) // PARTS))
    max_bytes = sharding.max_bytes or BYTES
    shard, images, total = 0, 0, 0
    while ahead:
        is_end = len(ahead) < LAST * usual
        max_images = sharding.max_images or (max(SMALLEST, usual // SMALLER) if is_end else usual)
        size = ahead.popleft()
        ahead.extend(itertools.islice(sizes, 1))
        if images and (images >= max_images or total + size > max_bytes):
            shard, images, total = shard + 1, 0, 0
            if shard == FINE_SHARDS:
                usual = largest * COARSE
                max_bytes = sharding.max_bytes or BYTES * COARSE
        yield shard
        images += 1
        total += size


def part_name(first: int, last: int | None = None) -> str:
    """Return the file name of a shard, or of the shards `first` to `last` after compaction."""
    return f"part-{first:05d}.parquet" if last in (None, first) else f"part-{first:05d}-{last:05d}.parquet"


def parts(run: str) -> dict[str, int]:
    """Return the shards that a run has written so far, by the path of their file below the run's folder."""
    found: dict[str, int] = {}
    for file in storage.list_files(storage.join(run, PARTS_FOLDER)):
        match = _PART.fullmatch(posixpath.basename(file.path))
        if match:
            found[f"{PARTS_FOLDER}/{match[0]}"] = int(match[1])
    return dict(sorted(found.items(), key=lambda item: item[1]))
