#!/usr/bin/env python3
"""Train a segmentation network on Ray Train.

jobs/train.py --model deeplabv3_resnet50 --train.images URL --train.labels URL --val.images URL --val.labels URL
              --classes classes.yaml --output URL

The output becomes the bundle that jobs/segment.py takes. The same command again resumes the run.
"""

from pipeline import cli
from pipeline.training.segmentation.config import TrainConfig


def main(argv: list[str]) -> None:
    config = cli.parse(TrainConfig, argv, description=__doc__ or "")
    from pipeline.training.display import format_training
    from pipeline.training.run import train
    from pipeline.training.segmentation.task import segmentation_task

    task, data = segmentation_task(config)
    print(format_training(config, task.measures, train(config, task, data)))


if __name__ == "__main__":
    cli.run(main)
