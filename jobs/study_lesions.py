#!/usr/bin/env python3
"""Remove and reorder the residual blocks of a trained network, and measure what each costs.

jobs/study_lesions.py --model BUNDLE --images URL [--labels URL] --output URL

Veit, Wilber & Belongie (NIPS 2016) on any bundle: single blocks, several blocks, other orders, and the gradient along
paths; the layers of a network without residual blocks, such as VGG, for comparison. The same command resumes the study.
"""

from pipeline import cli
from pipeline.studies.config import LesionConfig


def main(argv: list[str]) -> None:
    config = cli.parse(LesionConfig, argv, description=__doc__ or "")
    from pipeline.studies.lesion_report import format_claims
    from pipeline.studies.lesion_study import study_lesions

    folder = study_lesions(config)
    print(f"\n{format_claims(folder)}\n\nreport: {folder}/report.html")


if __name__ == "__main__":
    cli.run(main)
