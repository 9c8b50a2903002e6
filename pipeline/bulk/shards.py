"""Shards: how a plan is cut into them, and the files that hold their results."""

import posixpath
import re

from pipeline import storage
from pipeline.bulk.config import Sharding

IMAGES = "images"
_PART = re.compile(r"part-(\d+)(?:-(\d+))?\.parquet$")


def cut_shards(sizes: list[int], sharding: Sharding) -> list[int]:
    """Return the shard of each image: consecutive images, closed before either bound would be crossed.

    Args:
        sizes: Encoded bytes of each image; 0 where unknown.
        sharding: The bounds. An image larger than `max_bytes` is a shard of its own.
    """
    max_images = sharding.images_for(len(sizes))
    shards: list[int] = []
    shard, images, total = 0, 0, 0
    for size in sizes:
        if images and (images >= max_images or total + size > sharding.max_bytes):
            shard, images, total = shard + 1, 0, 0
        shards.append(shard)
        images += 1
        total += size
    return shards


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
