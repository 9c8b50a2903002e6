r"""Train a classifier with class activation maps on Ray Train, from image labels alone.

The output becomes the bundle that `segpipe localize` takes. The same command again resumes the run.

Examples:
    segpipe train-classifier --model resnet50_cam --train.images s3://data/train --val.images s3://data/val \
      --output s3://models/animals
    segpipe train-classifier --model resnet18_cam --train.positive raccoons --train.negative outdoors \
      --val.positive raccoons-val --val.negative outdoors-val --target raccoon --output model
    segpipe train-classifier --recipe vgg16_cam --train.images photos --train.labels train.csv --val.images photos \
      --val.labels val.csv --output model
"""

from pipeline import cli
from pipeline.training.classification.config import TrainClassifierConfig

CONFIG = TrainClassifierConfig
RECIPES = "classifiers"
COMMON = (
    "train.images",
    "train.labels",
    "val.images",
    "val.labels",
    "weights",
    "epochs",
    "batch_size",
    "optimiser.lr",
    "scaling.num_workers",
    "scaling.use_gpu",
)


def main(argv: list[str]) -> None:
    """Train a classifier."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "", common=COMMON, recipe_folder=RECIPES)
    from pipeline.training.classification.task import classification_task
    from pipeline.training.display import format_training
    from pipeline.training.run import train

    task, data = classification_task(config)
    print(format_training(config, task.measures, train(config, task, data)))
