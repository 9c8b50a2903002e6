"""Find out in bulk what images show and where, by a classifier's activation maps, and write it to Parquet.

The results are written to OUTPUT/run_id=…/. The same command again resumes a run that was interrupted.

Examples:
    segpipe localize --model s3://models/raccoons --images s3://photos/2026-11 --output s3://found
    segpipe localize --model model --images photos --truth boxes.csv --output found --run-id test
    segpipe localize --model model --images photos --output found --mask crf --maps.flip --maps.scales 1,1.5

Exit code 0: done. 1: failed. 2: a mistake in the options or the input. 3: incomplete; the same command resumes the run.
4: more images failed than --max-error-rate accepts. 130: interrupted by Ctrl-C; the same command resumes the run.
"""

from pipeline import cli
from pipeline.bulk.localization.config import LocalizeConfig

CONFIG = LocalizeConfig
COMMON = ("truth", "min_probability", "mask", "boxes.regions", "run_id", "since", "dry_run")


def main(argv: list[str]) -> None:
    """Localize in bulk."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "", common=COMMON)
    from pipeline.bulk.job import run_job
    from pipeline.bulk.localization.run import localize
    from pipeline.bulk.localization.tables import format_scores

    run_job(config, localize, format_scores)
