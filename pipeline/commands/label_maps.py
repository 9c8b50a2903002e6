"""Turn the polygons and RLE masks of a COCO file into label maps for `segpipe train`.

Writes OUTPUT/labels/NAME.png for each image of the file, and OUTPUT/classes.yaml. Pixels without annotation are the
class 'background' or ignored. Smaller objects are painted over larger ones.

Examples:
    segpipe label-maps annotations/instances_val2017.json --output s3://data/val/labels
    segpipe label-maps annotations.json --output data --unlabelled ignore
"""

from pipeline import cli, storage
from pipeline.data.coco_config import LabelMapsConfig

CONFIG = LabelMapsConfig


def main(argv: list[str]) -> None:
    """Write the label maps, and print how many there are."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    from pipeline.data.coco_masks import write_label_maps

    count, classes = write_label_maps(config)
    print(f"{count:,} label maps of {len(classes)} classes in {storage.redact(config.output)}")
