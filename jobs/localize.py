#!/usr/bin/env python3
"""Say in bulk what images show, and where, by a classifier's activation maps; write it to Parquet.

jobs/localize.py --model BUNDLE --images URL --output URL [--truth boxes.csv]

Results lie in OUTPUT/run_id=…/. The same command again resumes a run that was interrupted.
"""

from pipeline import cli
from pipeline.bulk.config import LocalizeConfig
from pipeline.bulk.localization.run import localize
from pipeline.bulk.localization.tables import format_scores
from pipeline.bulk.run import summarise


def main(argv: list[str]) -> None:
    config = cli.parse(LocalizeConfig, argv, description=__doc__ or "")
    run = localize(config)
    if run is not None:
        print(summarise(run, format_scores))


if __name__ == "__main__":
    cli.run(main)
