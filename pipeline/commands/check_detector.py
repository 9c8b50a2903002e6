r"""Measure how well a target detector tells unseen images apart, in colour and grey and at several resolutions.

Examples:
    segpipe check-detector --model s3://models/raccoons --positive s3://data/raccoons --negative s3://data/outdoors \
      --output s3://checks/raccoons
    segpipe check-detector --model model --positive raccoons --negative outdoors --truth boxes.csv --output check
"""

from pipeline import cli
from pipeline.bulk.localization.config import TargetCheckConfig

CONFIG = TargetCheckConfig


def main(argv: list[str]) -> None:
    """Check a detector, and print the scores."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    from pipeline.bulk.localization.target_check import REPORT, check_target, format_report

    print(f"\n{format_report(check_target(config))}\n\nrows: {config.output}/{REPORT}")
