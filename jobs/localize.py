#!/usr/bin/env python3
"""Find out in bulk what images show and where, by a classifier's activation maps, and write it to Parquet.

jobs/localize.py --model BUNDLE --images URL --output URL [--truth boxes.csv]

The results are written to OUTPUT/run_id=…/. The same command again resumes a run that was interrupted.

Exit code 0: done. 1: failed. 2: a mistake in the options or the input. 3: incomplete; the same command resumes the run.
4: more images failed than --max-error-rate accepts. 130: interrupted by Ctrl-C; the same command resumes the run.
"""

from pipeline import cli
from pipeline.bulk.localization.config import LocalizeConfig


def main(argv: list[str]) -> None:
    config = cli.parse(LocalizeConfig, argv, description=__doc__ or "")
    from pipeline.bulk.job import run_job
    from pipeline.bulk.localization.run import localize
    from pipeline.bulk.localization.tables import format_scores

    run_job(config, localize, format_scores)


if __name__ == "__main__":
    cli.run_resumable(main)
