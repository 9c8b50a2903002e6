"""Time and memory of a bulk run's plan: `python -m benchmarks.plan [--keys 1000000] [--store s3] [--dry-run]`.

It lists a bucket of made-up keys and makes the plan, as the driver of a run does before and while Ray starts. With
`--store fake` the listing comes from fsspec dictionaries that are made in the same process; with `--store s3` the S3
client reads it from a server in a process of its own, which adds the client's costs, but no latency. The memory is the
peak of the whole process.
"""

import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Literal

import fsspec
from pydantic import BaseModel, Field

from benchmarks.fake_bucket import BUCKET, FakeBucket, FakeFileSystem, s3_server
from pipeline import cli, storage
from pipeline.bulk.config import BulkConfig
from pipeline.bulk.earlier import Earlier
from pipeline.bulk.plan import MANIFEST, PLAN, make_plan, store_plan, summarize
from pipeline.bulk.run import format_plan
from pipeline.bulk.selection import Selection


class PlanConfig(BaseModel):
    """The options of `python -m benchmarks.plan`."""

    keys: int = Field(default=1_000_000, ge=1, description="keys of the bucket")
    folders: int = Field(default=1000, ge=1, le=100_000, description="folders of the bucket")
    store: Literal["fake", "s3"] = Field(default="fake", description="where the listing comes from")
    dry_run: bool = Field(default=False, description="do not store the plan")
    since: bool = Field(default=False, description="plan once more, with --since the first plan")


def main(argv: list[str]) -> None:
    """Make the plan, and print its costs."""
    config = cli.parse(PlanConfig, argv, description=__doc__ or "")
    bucket = FakeBucket(config.keys, config.folders)
    with tempfile.TemporaryDirectory() as folder:
        if config.store == "fake":
            fsspec.register_implementation("fake", FakeFileSystem)
            _measure(config, f"fake://{config.keys}-{config.folders}", folder)
            return
        with s3_server(bucket) as endpoint:
            os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
            _measure(config, f"s3://{BUCKET}", folder)


def _measure(config: PlanConfig, images: str, folder: str) -> None:
    run = f"{folder}/run_id=first"
    _plan(BulkConfig(model="/m", images=images, output=folder), run, config)
    if config.since and not config.dry_run:
        Path(run, MANIFEST).write_text("{}")
        _plan(BulkConfig(model="/m", images=images, output=folder, since=run), f"{folder}/run_id=second", config)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory of the process: {peak / 2**20:,.0f} MiB")


def _plan(options: BulkConfig, run: str, config: PlanConfig) -> None:
    start, started = time.perf_counter(), time.process_time()
    selection = Selection(options, run=None if config.dry_run else run)
    listed = time.process_time()
    rows = make_plan(options, selection, lambda ids: ([None] * len(some) for some in ids))
    summary = summarize(rows) if config.dry_run else store_plan(run, rows, {})
    seconds, end = time.perf_counter() - start, time.process_time()
    print(format_plan(summary, run, Earlier(options.since, selection.removed)))
    each = 1e6 / config.keys
    print(
        f"{seconds:.1f} s; CPU time {end - started:.1f} s, {each * (end - started):.1f} µs a key, of which "
        f"{each * (listed - started):.1f} µs for the listing"
    )
    if not config.dry_run:
        print(f"{os.path.getsize(storage.join(run, PLAN)) / 2**20:,.0f} MiB stored")


if __name__ == "__main__":
    cli.run(main)
