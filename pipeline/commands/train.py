r"""Train a segmentation network on Ray Train.

The output becomes the bundle that `segpipe segment` takes. The same command again resumes the run.

Examples:
    segpipe train --recipe deeplab_v3 --train.images s3://data/train/images --train.labels s3://data/train/labels \
      --val.images s3://data/val/images --val.labels s3://data/val/labels --classes classes.yaml --output s3://models/roads
    segpipe train --model deeplabv3_resnet18 --train.images photos --train.labels masks --train.label-suffix _mask \
      --val.images photos-val --val.labels masks-val --val.label-suffix _mask --classes classes.yaml --output model
    segpipe train --config train.yaml --epochs 100 --scaling.num-workers 8 --scaling.use-gpu
"""

from pipeline import cli
from pipeline.data import presets
from pipeline.training.segmentation.config import TrainConfig

CONFIG = TrainConfig
RECIPES = ""
COMMON = (
    "train.label_suffix",
    "val.label_suffix",
    "weights",
    "epochs",
    "batch_size",
    "augmentation.crop",
    "optimiser.lr",
    "scaling.num_workers",
    "scaling.use_gpu",
)


def main(argv: list[str]) -> None:
    """Train a segmentation network."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "", common=COMMON, recipe_folder=RECIPES)
    for split, places in (("train", config.train), ("val", config.val)):
        presets.require_places(config.dataset, places.model_dump(), split=split)
    from pipeline.training.display import format_training
    from pipeline.training.run import train
    from pipeline.training.segmentation.task import segmentation_task

    task, data = segmentation_task(config)
    print(format_training(config, task.measures, train(config, task, data)))
