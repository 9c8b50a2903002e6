"""When the shards of a run were written, by the clock of its store; kept as a table, because the shards go away."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline import parquet, storage
from pipeline.bulk.catalogue import RUN_FOLDER, written_at
from pipeline.bulk.shards import PARTS_FOLDER

THROUGHPUT = f"{RUN_FOLDER}/throughput.parquet"
SCHEMA = pa.schema([("shard", pa.int64()), ("images", pa.int64()), ("written", pa.timestamp("ms", "UTC"))])
FEWEST, MOST_BINS = 4, 60


class Rate(NamedTuple):
    """Images per second over a run.

    Attributes:
        seconds: Time between the first and the last written shard.
        images: Images that were written in this time; those of the first shard came before it.
        points: Seconds since the first shard, and images per second around then.
    """

    seconds: float
    images: int
    points: list[tuple[float, float]]


def store_throughput(run: str, shards: Mapping[str, int], rows: Mapping[str, int]) -> None:
    """Store when each shard was written; those whose store keeps no time are left out.

    Args:
        run: Folder of the run.
        shards: Shard of each file, by its path below the folder.
        rows: Images of each file.
    """
    found: list[dict[str, Any]] = []
    for file in storage.list_files(storage.join(run, PARTS_FOLDER)):
        name, time = f"{PARTS_FOLDER}/{file.path.rpartition('/')[2]}", written_at(file)
        if name in shards and time is not None:
            found.append({"shard": shards[name], "images": rows[name], "written": time})
    found.sort(key=lambda row: row["shard"])
    parquet.write_rows(storage.join(run, THROUGHPUT), found, SCHEMA)


def read_rate(run: str) -> Rate | None:
    """Return the rate of a run over time; None if it has too few shards, or was written before there was the table."""
    url = storage.join(run, THROUGHPUT)
    if not storage.exists(url):
        return None
    table = parquet.read_table(url)
    if len(table) < FEWEST:
        return None
    times = np.array([time.replace(tzinfo=UTC).timestamp() for time in table["written"].to_pylist()])
    order = np.argsort(times, kind="stable")
    times, images = times[order] - times.min(), table["images"].to_numpy()[order]
    seconds = float(times[-1])
    if seconds <= 0:
        return None
    bins = max(2, min(MOST_BINS, len(times) // 2))
    counts, edges = np.histogram(times[1:], bins=bins, range=(0, seconds), weights=images[1:])
    middles = (edges[1:] + edges[:-1]) / 2
    points = list(zip(middles.tolist(), (counts * bins / seconds).tolist(), strict=True))
    return Rate(seconds, int(images[1:].sum()), points)


def format_time(text: str) -> str:
    """Return an ISO 8601 time as people write it, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%-d %B %Y, %H:%M UTC")
