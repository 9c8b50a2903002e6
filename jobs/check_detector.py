#!/usr/bin/env python3
"""Measure how well a target detector tells unseen images apart, in colour and grey and at several resolutions.

jobs/check_detector.py --model BUNDLE --positive URL --negative URL [--truth URL] --output URL
"""

from pipeline import cli
from pipeline.bulk.localization.config import TargetCheckConfig


def main(argv: list[str]) -> None:
    config = cli.parse(TargetCheckConfig, argv, description=__doc__ or "")
    from pipeline.bulk.localization.target_check import REPORT, check_target, format_report

    print(f"\n{format_report(check_target(config))}\n\nrows: {config.output}/{REPORT}")


if __name__ == "__main__":
    cli.run(main)
