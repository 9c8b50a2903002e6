#!/usr/bin/env python3
"""Search the parameters of the dense CRF on validation images, coarse to fine.

jobs/tune_crf.py --model BUNDLE --images URL --labels URL --output URL

Writes OUTPUT/trials.parquet, and prints the best setting beside the default and no CRF, which may be the best.
"""

from pipeline import cli
from pipeline.bulk.segmentation.config import TuneConfig


def main(argv: list[str]) -> None:
    config = cli.parse(TuneConfig, argv, description=__doc__ or "")
    from pipeline.bulk.segmentation.tune_crf import format_trials, tune
    from pipeline.card import read_card

    print(format_trials(tune(config), read_card(config.model).classes))


if __name__ == "__main__":
    cli.run(main)
