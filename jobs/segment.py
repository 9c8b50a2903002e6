#!/usr/bin/env python3
"""Segment a collection of images in bulk, and write the masks to Parquet.

jobs/segment.py --model BUNDLE --images URL --output URL [--labels URL]

The results are written to OUTPUT/run_id=…/. The same command again resumes a run that was interrupted.

Exit code 0: done. 1: failed. 2: a mistake in the options or the input. 3: incomplete; the same command resumes the run.
4: more images failed than --max-error-rate accepts. 130: interrupted by Ctrl-C; the same command resumes the run.
"""

from pipeline import cli
from pipeline.bulk.segmentation.config import SegmentConfig


def main(argv: list[str]) -> None:
    config = cli.parse(SegmentConfig, argv, description=__doc__ or "")
    from pipeline.bulk.job import run_job
    from pipeline.bulk.segmentation.run import segment
    from pipeline.bulk.segmentation.tables import format_report

    run_job(config, segment, format_report)


if __name__ == "__main__":
    cli.run_resumable(main)
