#!/usr/bin/env python3
"""Train DeepLab v3: jobs/train.py with the paper's architecture and schedule as defaults.

jobs/train_deeplab.py --train.images URL --train.labels URL --val.images URL --val.labels URL
                      --classes classes.yaml --output URL
"""

from pydantic import Field

from pipeline import cli
from pipeline.data.transforms import Augmentation
from pipeline.training.config import Optimiser, TrainConfig
from pipeline.training.display import summarise
from pipeline.training.run import train
from pipeline.training.segmentation.task import segmentation_task


class DeepLabConfig(TrainConfig):
    """Chen et al. 2017, section 4: crops of 513, scales 0.5-2.0, poly schedule from 0.007, power 0.9."""

    model: str = Field(default="deeplabv3_resnet50", description="deeplabv3_resnet18 or deeplabv3_resnet50")
    batch_size: int = Field(default=16, ge=1, description="images in a step, over all workers")
    augmentation: Augmentation = Augmentation(crop=(513, 513))
    optimiser: Optimiser = Optimiser(lr=0.007)


def main(argv: list[str]) -> None:
    config = cli.parse(DeepLabConfig, argv, description=__doc__ or "")
    task = segmentation_task(config)
    print(summarise(config, task.measures, train(config, task)))


if __name__ == "__main__":
    cli.run(main)
