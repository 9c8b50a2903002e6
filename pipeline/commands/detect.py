"""Find objects in a collection of images in bulk, and write their boxes to Parquet.

The results are written to OUTPUT/run_id=…/. The same command again resumes a run that was interrupted.

Examples:
    segpipe detect --model s3://models/cells --images s3://photos/2026-11 --output s3://found
    segpipe detect --model model --images photos --truth boxes.csv --output found --run-id test

Exit code 0: done. 1: failed. 2: a mistake in the options or the input. 3: incomplete; the same command resumes the run.
4: more images failed than --max-error-rate accepts. 130: interrupted by Ctrl-C; the same command resumes the run.
"""

from pipeline import cli
from pipeline.bulk.detection.config import DetectConfig

CONFIG = DetectConfig
COMMON = ("truth", "run_id", "since", "dry_run")


def main(argv: list[str]) -> None:
    """Detect in bulk."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "", common=COMMON)
    from pipeline.bulk.detection.report import format_scores
    from pipeline.bulk.detection.run import detect
    from pipeline.bulk.job import run_job

    run_job(config, detect, format_scores)
