"""Derive the mIoU tables of a finished run against label maps, without inference.

Examples:
    segpipe evaluate --run s3://masks/run_id=2026-11-21 --labels s3://data/labels
    segpipe evaluate --run runs/run_id=a --labels masks --label-suffix _mask --output scores
"""

from pipeline import cli
from pipeline.bulk.segmentation.config import EvaluateConfig
from pipeline.data import presets

CONFIG = EvaluateConfig


def main(argv: list[str]) -> None:
    """Score a run, and print the tables."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    presets.require_places(config.dataset, {"labels": config.labels}, split=config.split)
    from pipeline.bulk.segmentation.evaluate import evaluate
    from pipeline.bulk.segmentation.tables import format_report

    print(format_report(evaluate(config)))
    if config.output:
        print(f"tables: {config.output}/{{class_report,dataset_report,confusion}}/")
