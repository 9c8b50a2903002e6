#!/usr/bin/env python3
"""Find out in bulk what images show and where, by a classifier's activation maps, and write it to Parquet.

jobs/localize.py --model BUNDLE --images URL --output URL [--truth boxes.csv]

The results are written to OUTPUT/run_id=…/. The same command again resumes a run that was interrupted.
"""

from pipeline import cli
from pipeline.bulk.localization.config import LocalizeConfig


def main(argv: list[str]) -> None:
    config = cli.parse(LocalizeConfig, argv, description=__doc__ or "")
    from pipeline.bulk.localization.run import localize
    from pipeline.bulk.localization.tables import format_scores
    from pipeline.bulk.run import format_run

    run = localize(config)
    if run is not None:
        print(format_run(run, format_scores))


if __name__ == "__main__":
    cli.run_resumable(main)
