r"""Search the parameters of the dense CRF on validation images, coarse to fine.

Writes OUTPUT/trials.parquet, and prints the best setting beside the default and no CRF, which may be the best.

Examples:
    segpipe tune-crf --model s3://models/roads --output s3://tuning --images s3://data/val/images \
      --labels s3://data/val/labels
    segpipe tune-crf --model model --output tuning --images photos --labels masks --w1 2,4 --fine-rounds 2
"""

from pipeline import cli
from pipeline.bulk.segmentation.config import TuneConfig

CONFIG = TuneConfig


def main(argv: list[str]) -> None:
    """Search, and print the best settings."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "")
    from pipeline.bulk.segmentation.tune_crf import format_trials, tune
    from pipeline.card import read_card

    print(format_trials(tune(config), read_card(config.model).classes))
