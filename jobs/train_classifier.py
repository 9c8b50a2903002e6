#!/usr/bin/env python3
"""Train a classifier with class activation maps on Ray Train, from image labels alone.

jobs/train_classifier.py --model resnet18_cam --train.images URL --val.images URL --output URL
jobs/train_classifier.py --model resnet18_cam --train.positive URL --train.negative URL
                         --val.positive URL --val.negative URL --target raccoon --output URL

The output becomes the bundle that jobs/localize.py takes. The same command again resumes the run.
"""

from pipeline import cli
from pipeline.training.classification.config import TrainClassifierConfig


def main(argv: list[str]) -> None:
    config = cli.parse(TrainClassifierConfig, argv, description=__doc__ or "")
    from pipeline.training.classification.task import classification_task
    from pipeline.training.display import format_training
    from pipeline.training.run import train

    task, data = classification_task(config)
    print(format_training(config, task.measures, train(config, task, data)))


if __name__ == "__main__":
    cli.run(main)
