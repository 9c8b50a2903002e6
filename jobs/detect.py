#!/usr/bin/env python3
"""Find objects in a collection of images in bulk, and write their boxes to Parquet.

jobs/detect.py --model BUNDLE --images URL --output URL [--truth URL]

The results are written to OUTPUT/run_id=…/. The same command again resumes a run that was interrupted.

Exit code 0: done. 1: failed. 2: a mistake in the options or the input. 3: incomplete; the same command resumes the run.
4: more images failed than --max-error-rate accepts. 130: interrupted by Ctrl-C; the same command resumes the run.
"""

from pipeline import cli
from pipeline.bulk.detection.config import DetectConfig


def main(argv: list[str]) -> None:
    config = cli.parse(DetectConfig, argv, description=__doc__ or "")
    from pipeline.bulk.detection.report import format_scores
    from pipeline.bulk.detection.run import detect
    from pipeline.bulk.job import run_job

    run_job(config, detect, format_scores)


if __name__ == "__main__":
    cli.run_resumable(main)
