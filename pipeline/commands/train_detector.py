r"""Train a detector on Ray Train: R-CNN, SPPNet, Fast R-CNN, YOLO, Faster R-CNN or SSD.

The output becomes the bundle that `segpipe detect` takes. The same command again resumes the run, R-CNN and SPPNet at
the stage that they were in.

Examples:
    segpipe train-detector --model fast_rcnn_vgg16 --train.images s3://data/train --train.boxes s3://data/train-xml \
      --val.images s3://data/val --val.boxes s3://data/val-xml --output s3://models/cars
    segpipe train-detector --recipe yolo --train.images photos --train.boxes boxes.csv --val.images photos-val \
      --val.boxes coco.json --output model
"""

from pipeline import cli
from pipeline.training.detection.config import TrainDetectorConfig

CONFIG = TrainDetectorConfig
RECIPES = "detectors"
COMMON = (
    "train.images",
    "train.boxes",
    "val.images",
    "val.boxes",
    "classes",
    "weights",
    "epochs",
    "batch_size",
    "optimiser.lr",
    "scaling.num_workers",
    "scaling.use_gpu",
)


def main(argv: list[str]) -> None:
    """Train a detector."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "", common=COMMON, recipe_folder=RECIPES)
    from pipeline.training.detection.task import detection_task
    from pipeline.training.display import format_training
    from pipeline.training.run import train

    task, data = detection_task(config)
    print(format_training(config, task.measures, train(config, task, data)))
