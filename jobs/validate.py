#!/usr/bin/env python3
"""Read a data set in parallel and report what is wrong with it.

jobs/validate.py --images URL --labels URL --classes classes.yaml [--preview crops.png --recipe recipes/pspnet.yaml]

Exit code 0: no problem found; 1: problems, listed; 2: it could not be read at all.
"""

from pipeline import cli
from pipeline.training.segmentation.inspection import InspectConfig, describe, inspect


def main(argv: list[str]) -> int:
    config = cli.parse(InspectConfig, argv, description=__doc__ or "")
    found, classes = inspect(config)
    print(describe(found, classes, show=config.show))
    return 1 if found.problems else 0


if __name__ == "__main__":
    cli.run(main)
