"""Shards: how a plan is cut into them, and the files that hold their results."""

import posixpath
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.bulk.config import Sharding

IMAGES = "images"
_PART = re.compile(r"part-(\d+)(?:-(\d+))?\.parquet$")


def cut_shards(sizes: list[int], sharding: Sharding) -> list[int]:
    """The shard of each image: consecutive images, closed before either bound would be crossed.

    Args:
        sizes: encoded bytes of each image, 0 where unknown.
        sharding: the bounds; an image beyond `max_bytes` is a shard of its own.
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


def shard_of(plan: pa.Table, shard: int) -> tuple[list[dict[str, Any]], int]:
    """The plan's rows of a shard, and the position of its first."""
    positions = pc.indices_nonzero(pc.equal(plan["shard"], shard))
    first = positions[0].as_py()
    return plan.slice(first, len(positions)).to_pylist(), first


def part_name(first: int, last: int | None = None) -> str:
    """The file of a shard, or of shards `first` to `last` after compaction."""
    return f"part-{first:05d}.parquet" if last in (None, first) else f"part-{first:05d}-{last:05d}.parquet"


def parts(run: str) -> dict[str, range]:
    """The files of results that are there, and the shards that each holds."""
    found: dict[str, range] = {}
    for file in storage.list_files(storage.join(run, IMAGES)):
        match = _PART.search(file.path)
        if match:
            first, last = int(match[1]), int(match[2] or match[1])
            found[f"{IMAGES}/{posixpath.basename(file.path)}"] = range(first, last + 1)
    return found
