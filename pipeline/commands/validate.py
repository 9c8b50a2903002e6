r"""Read a data set in parallel and report what is wrong with it.

Exit code 0: no problem found, but perhaps warnings. 1: problems found and listed. 2: the data set could not be read.

Examples:
    segpipe validate --images s3://data/train/images --labels s3://data/train/labels --classes classes.yaml
    segpipe validate --images photos --labels masks --label-suffix _mask --classes classes.yaml \
      --preview crops.png --recipe pspnet
    segpipe validate --images photos --boxes annotations --preview boxes.png
"""

from collections.abc import Sequence

from pipeline import cli
from pipeline.data import presets
from pipeline.storage import redact
from pipeline.training.problems import Problem
from pipeline.training.segmentation.config import InspectConfig

CONFIG = InspectConfig
COMMON = ("labels", "boxes", "classes", "label_suffix", "list", "preview", "recipe", "show")


def main(argv: list[str]) -> int:
    """Inspect a data set, and print what was found."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "", common=COMMON)
    if config.boxes is not None:
        from pipeline.training.detection.inspection import format_box_inspection, inspect_boxes

        boxes = inspect_boxes(config)
        _print_places(config, boxes.problems)
        print(format_box_inspection(boxes, show=config.show))
        return 1 if boxes.problems else 0
    presets.require_places(config.dataset, config.model_dump(), split=config.split)
    from pipeline.training.segmentation.inspection import format_inspection, inspect

    found, classes = inspect(config)
    _print_places(config, found.problems)
    print(format_inspection(found, classes, show=config.show))
    return 1 if found.problems else 0


def _print_places(config: InspectConfig, problems: Sequence[Problem]) -> None:
    """Print where the preview and the report are, before the text, which ends with the line that sums up."""
    if config.preview and not any(problem.kind == "no_preview" for problem in problems):
        print(f"preview: {redact(config.preview)}")
    if config.report:
        print(f"report: {redact(config.report)}")
