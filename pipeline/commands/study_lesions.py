"""Remove and reorder the residual blocks of a trained network, and measure what each costs.

Veit, Wilber & Belongie (NIPS 2016) on any bundle: single blocks, several blocks, other orders, and the gradient along
paths; the layers of a network without residual blocks, such as VGG, for comparison. The results are written to
OUTPUT/study_id=…/. The same command again resumes a study that was interrupted.

Examples:
    segpipe study-lesions --model s3://models/resnet110 --images s3://data/val --output s3://studies
    segpipe study-lesions --model model --images photos --labels masks --output studies --limit 200 --draws 3
"""

from pipeline import cli
from pipeline.studies.config import LesionConfig

CONFIG = LesionConfig
COMMON = ("labels", "limit", "counts", "swaps", "draws", "use_gpu")


def main(argv: list[str]) -> None:
    """Run the study, and print the verdicts."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "", common=COMMON)
    from pipeline.studies.lesion_report import format_claims
    from pipeline.studies.lesion_study import study_lesions

    folder = study_lesions(config)
    print(f"\n{format_claims(folder)}\n\nreport: {folder}/report.html")
