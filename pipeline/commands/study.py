"""Compare variants of training and inference over several seeds, and say whether a paper's claim holds on your data.

A study is a YAML file: a claim, the jobs of a trial, variants of their options, and the score that decides. The results
are written to OUTPUT/study_id=…/. Trials that are done are not run again, and one that fails does not stop the others:
the same command goes on.

Examples:
    segpipe study list
    segpipe study fcn_strides --options data.yaml --output s3://studies
    segpipe study my_study.yaml --options data.yaml --output studies --seeds 5 --parallel 4
"""

from pipeline import cli
from pipeline.studies.config import StudyConfig

CONFIG = StudyConfig
COMMON = ("options", "output", "seeds", "parallel")


def main(argv: list[str]) -> None:
    """Run a study, or list those of the package."""
    config = cli.parse(CONFIG, argv, description=__doc__ or "", common=COMMON)
    from pipeline.studies.run import list_studies, study

    print(list_studies() if config.study == "list" else study(config))
