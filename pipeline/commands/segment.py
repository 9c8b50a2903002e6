"""Segment a collection of images in bulk, and write the masks to Parquet.

The results are written to OUTPUT/run_id=…/. The same command again resumes a run that was interrupted.

Examples:
    segpipe segment --model s3://models/roads --images s3://photos/2026-11 --output s3://masks
    segpipe segment --model model --images photos --labels masks --label-suffix _mask --output runs --crf
    segpipe segment --model model --images 's3://shards/train-{000..123}.tar' --output runs --since last --deadline 6h

Exit code 0: done. 1: failed. 2: a mistake in the options or the input. 3: incomplete; the same command resumes the run.
4: more images failed than --max-error-rate accepts. 130: interrupted by Ctrl-C; the same command resumes the run.
"""

from pipeline import cli
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.data import presets

CONFIG = SegmentConfig
COMMON = ("labels", "label_suffix", "crf", "run_id", "since", "dry_run")


def main(argv: list[str]) -> None:
    """Segment in bulk."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "", common=COMMON)
    presets.require_places(config.dataset, {"images": config.images, "labels": config.labels}, split=config.split)
    from pipeline.bulk.job import run_job
    from pipeline.bulk.segmentation.run import segment
    from pipeline.bulk.segmentation.tables import format_report

    run_job(config, segment, format_report)
