#!/usr/bin/env python3
"""Segment a collection of images in bulk and write masks to Parquet.

jobs/segment.py --model BUNDLE --images URL --output URL [--labels URL]

Results lie in OUTPUT/run_id=…/. The same command again resumes a run that was interrupted.
"""

from pipeline import cli
from pipeline.bulk.config import SegmentConfig
from pipeline.bulk.run import summarise
from pipeline.bulk.segmentation.run import segment
from pipeline.bulk.segmentation.tables import format_report


def main(argv: list[str]) -> None:
    config = cli.parse(SegmentConfig, argv, description=__doc__ or "")
    run = segment(config)
    if run is not None:
        print(summarise(run, format_report))


if __name__ == "__main__":
    cli.run(main)
