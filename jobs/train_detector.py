#!/usr/bin/env python3
"""Train a detector on Ray Train: R-CNN, SPPNet, Fast R-CNN, YOLO, Faster R-CNN or SSD.

jobs/train_detector.py --model fast_rcnn_vgg16 --train.images URL --train.boxes URL --val.images URL --val.boxes URL
                       --output URL

The output becomes the bundle that jobs/detect.py takes. The same command again resumes the run.
"""

from pipeline import cli
from pipeline.training.detection.config import TrainDetectorConfig


def main(argv: list[str]) -> None:
    config = cli.parse(TrainDetectorConfig, argv, description=__doc__ or "")
    from pipeline.training.detection.task import detection_task
    from pipeline.training.display import format_training
    from pipeline.training.run import train

    task, data = detection_task(config)
    print(format_training(config, task.measures, train(config, task, data)))


if __name__ == "__main__":
    cli.run(main)
