"""Turn the maps of a localization run into label maps for `segpipe train`: weakly supervised segmentation.

Examples:
    segpipe pseudo-labels --run s3://found/run_id=train --output s3://data/pseudo
    segpipe pseudo-labels --run found/run_id=train --output pseudo --sure-foreground 0.6 --sure-background 0.4
"""

from pipeline import cli
from pipeline.bulk.localization.config import PseudoLabelsConfig

CONFIG = PseudoLabelsConfig


def main(argv: list[str]) -> None:
    """Write the label maps, and print what is in them."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    from pipeline.bulk.localization.pseudo_labels import format_pseudo_labels, write_pseudo_labels

    print(format_pseudo_labels(write_pseudo_labels(config), config.output))
