r"""Read a data set in parallel and report what is wrong with it.

Exit code 0: no problem found, but perhaps warnings. 1: problems found and listed. 2: the data set could not be read.

Examples:
    segpipe validate --images s3://data/train/images --labels s3://data/train/labels --classes classes.yaml
    segpipe validate --images photos --labels masks --label-suffix _mask --classes classes.yaml \
      --preview crops.png --recipe pspnet
    segpipe validate --images photos --boxes annotations --preview boxes.png
"""

from pipeline import cli
from pipeline.data import presets
from pipeline.training.segmentation.config import InspectConfig

CONFIG = InspectConfig
COMMON = ("labels", "boxes", "classes", "label_suffix", "list", "preview", "recipe", "show")


def main(argv: list[str]) -> int:
    """Inspect a data set, and print what was found."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "", common=COMMON)
    if config.boxes is not None:
        from pipeline.training.detection.inspection import format_box_inspection, inspect_boxes

        boxes = inspect_boxes(config)
        print(format_box_inspection(boxes, show=config.show))
        return 1 if boxes.problems else 0
    presets.require_places(config.dataset, config.model_dump(), split=config.split)
    from pipeline.training.segmentation.inspection import format_inspection, inspect

    found, classes = inspect(config)
    print(format_inspection(found, classes, show=config.show))
    return 1 if found.problems else 0
