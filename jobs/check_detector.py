#!/usr/bin/env python3
"""Say what a target detector is worth on images that it has not seen, and whether it goes by colour or resolution.

jobs/check_detector.py --model BUNDLE --positive URL --negative URL [--truth URL] --output URL
"""

from pipeline import cli
from pipeline.bulk.localization.target_check import REPORT, DetectorConfig, check_detector, describe


def main(argv: list[str]) -> None:
    config = cli.parse(DetectorConfig, argv, description=__doc__ or "")
    print(f"\n{describe(check_detector(config))}\n\nrows: {config.output}/{REPORT}")


if __name__ == "__main__":
    cli.run(main)
