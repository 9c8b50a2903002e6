"""Write the masks or boxes of a finished run in the format of another tool.

png: indexed PNG masks with the class palette. cityscapes: PNG masks of Cityscapes' label ids. coco: COCO JSON with RLE
masks, or with boxes. coco-polygons: a polygon for each connected region. yolo: text files. label-studio, cvat: files to
import for correction. fiftyone, huggingface: data set folders. docs/exchange.md describes them.

Examples:
    segpipe export runs/run_id=a --format coco --output exports/coco
    segpipe export s3://masks/run_id=night --format label-studio --output s3://labels/todo
        --where "mean_confidence < 0.6" --image-prefix https://images.example.org/
    segpipe export runs/run_id=a --format huggingface --copy-images --output exports/dataset
"""

from pipeline import cli
from pipeline.export.config import ExportConfig

CONFIG = ExportConfig


def main(argv: list[str]) -> None:
    """Export a run, and print what was written."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    from pipeline.export.run import export_run, format_exported

    print(format_exported(export_run(config), config))
