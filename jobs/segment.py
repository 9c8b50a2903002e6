#!/usr/bin/env python3
"""Segment a collection of images in bulk, and write the masks to Parquet.

jobs/segment.py --model BUNDLE --images URL --output URL [--labels URL]

The results are written to OUTPUT/run_id=…/. The same command again resumes a run that was interrupted.
"""

from pipeline import cli
from pipeline.bulk.segmentation.config import SegmentConfig


def main(argv: list[str]) -> None:
    config = cli.parse(SegmentConfig, argv, description=__doc__ or "")
    from pipeline.bulk.run import format_run
    from pipeline.bulk.segmentation.run import segment
    from pipeline.bulk.segmentation.tables import format_report

    run = segment(config)
    if run is not None:
        print(format_run(run, format_report))


if __name__ == "__main__":
    cli.run_resumable(main)
