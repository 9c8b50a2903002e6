#!/usr/bin/env python3
"""Read a data set in parallel and report what is wrong with it.

jobs/validate.py --images URL --labels URL --classes classes.yaml [--preview crops.png --recipe recipes/pspnet.yaml]

Exit code 0: no problem found, but perhaps warnings. 1: problems found and listed. 2: the data set could not be read.
"""

from pipeline import cli
from pipeline.training.segmentation.config import InspectConfig


def main(argv: list[str]) -> int:
    config = cli.parse(InspectConfig, argv, description=__doc__ or "")
    from pipeline.training.segmentation.inspection import format_inspection, inspect

    found, classes = inspect(config)
    print(format_inspection(found, classes, show=config.show))
    return 1 if found.problems else 0


if __name__ == "__main__":
    cli.run(main)
