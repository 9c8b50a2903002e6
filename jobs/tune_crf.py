#!/usr/bin/env python3
"""Search the parameters of the dense CRF on validation images, coarse to fine.

jobs/tune_crf.py --model BUNDLE --images URL --labels URL --output URL

Writes OUTPUT/trials.parquet, and prints the best setting beside the default and no CRF at all: it may well be best.
"""

from pipeline import bundle, cli
from pipeline.bulk.segmentation.tune_crf import TuneConfig, describe, tune


def main(argv: list[str]) -> None:
    config = cli.parse(TuneConfig, argv, description=__doc__ or "")
    print(describe(tune(config), bundle.read_card(config.model).classes))


if __name__ == "__main__":
    cli.run(main)
