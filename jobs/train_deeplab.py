#!/usr/bin/env python3
"""Train DeepLab v3 as in its paper: jobs/train.py with recipes/deeplab_v3.yaml as the defaults.

jobs/train_deeplab.py --train.images URL --train.labels URL --val.images URL --val.labels URL
                      --classes classes.yaml --output URL
"""

from pathlib import Path

from pipeline import cli
from pipeline.training.segmentation.config import TrainConfig

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "deeplab_v3.yaml"


def main(argv: list[str]) -> None:
    config = cli.parse(TrainConfig, argv, description=__doc__ or "", recipe=str(RECIPE))
    from pipeline.training.display import format_training
    from pipeline.training.run import train
    from pipeline.training.segmentation.task import segmentation_task

    task, data = segmentation_task(config)
    print(format_training(config, task.measures, train(config, task, data)))


if __name__ == "__main__":
    cli.run(main)
