#!/usr/bin/env python3
"""Turn the maps of a localization run into label maps for jobs/train.py: weakly supervised segmentation.

jobs/pseudo_labels.py --run OUTPUT/run_id=… --output URL
"""

from pipeline import cli
from pipeline.bulk.localization.config import PseudoLabelsConfig


def main(argv: list[str]) -> None:
    config = cli.parse(PseudoLabelsConfig, argv, description=__doc__ or "")
    from pipeline.bulk.localization.pseudo_labels import format_pseudo_labels, write_pseudo_labels

    print(format_pseudo_labels(write_pseudo_labels(config), config.output))


if __name__ == "__main__":
    cli.run(main)
