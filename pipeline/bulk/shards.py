"""Shards: how a plan is cut into them, and the files that hold their results."""

import itertools
import posixpath
import re
from collections.abc import Iterable, Iterator

from pipeline import storage
from pipeline.bulk.config import Sharding

IMAGES = "images"
SMALLEST, LARGEST = 16, 256  # images in a shard
PARTS = 32  # shards of a list of 512 to 8,192 images
BYTES = 32 * 2**20
FINE_SHARDS = 10_000  # of up to 2.56 million images
COARSE = 8
REFINED = 64  # images in a shard whose rows take long: a task is done in a minute, and its block fits into memory
_PART = re.compile(r"part-(\d+)(?:-(\d+))?\.parquet$")


def cut_shards(sizes: Iterable[int], sharding: Sharding, *, refines: bool = False) -> Iterator[int]:
    """Yield the shard of each image: consecutive images, closed before either bound would be crossed.

    By default, a short list is cut into enough shards to share out and to resume from, and a shard of a long one costs
    little more than its images. After `FINE_SHARDS` shards, both bounds are `COARSE` times as large.

    Args:
        sizes: Encoded bytes of each image; 0 where unknown. At most 8,192 are read ahead.
        sharding: The bounds. An image larger than `max_bytes` is a shard of its own.
        refines: See `kind.RunKind.refines`; the shards have at most `REFINED` images.
    """
    sizes = iter(sizes)
    largest = REFINED if refines else LARGEST
    first = list(itertools.islice(sizes, LARGEST * PARTS))
    max_images = sharding.max_images or min(largest, max(SMALLEST, len(first) // PARTS))
    max_bytes = sharding.max_bytes or BYTES
    shard, images, total = 0, 0, 0
    for size in itertools.chain(first, sizes):
        if images and (images >= max_images or total + size > max_bytes):
            shard, images, total = shard + 1, 0, 0
            if shard == FINE_SHARDS:
                max_images = sharding.max_images or largest * COARSE
                max_bytes = sharding.max_bytes or BYTES * COARSE
        yield shard
        images += 1
        total += size


def part_name(first: int, last: int | None = None) -> str:
    """Return the file name of a shard, or of the shards `first` to `last` after compaction."""
    return f"part-{first:05d}.parquet" if last in (None, first) else f"part-{first:05d}-{last:05d}.parquet"


def parts(run: str) -> dict[str, range]:
    """Return the files of results that a run has so far, and the shards that each holds."""
    found: dict[str, range] = {}
    for file in storage.list_files(storage.join(run, IMAGES)):
        match = _PART.search(file.path)
        if match:
            first, last = int(match[1]), int(match[2] or match[1])
            found[f"{IMAGES}/{posixpath.basename(file.path)}"] = range(first, last + 1)
    return found
