#!/usr/bin/env python3
"""Derive the mIoU tables of a finished run against label maps, without inference.

jobs/evaluate.py --run OUTPUT/run_id=… --labels URL
"""

from pipeline import cli
from pipeline.bulk.segmentation.config import EvaluateConfig


def main(argv: list[str]) -> None:
    config = cli.parse(EvaluateConfig, argv, description=__doc__ or "")
    from pipeline.bulk.segmentation.evaluate import evaluate
    from pipeline.bulk.segmentation.tables import format_report

    print(format_report(evaluate(config)))
    if config.output:
        print(f"tables: {config.output}/{{class_report,dataset_report,confusion}}/")


if __name__ == "__main__":
    cli.run(main)
