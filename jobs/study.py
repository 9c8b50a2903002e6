#!/usr/bin/env python3
"""Compare variants of training and inference over several seeds, and say whether a paper's claim holds on your data.

jobs/study.py --study fcn_strides --options data.yaml --output URL
jobs/study.py --study list

A study is a YAML file: a claim, the jobs of a trial, variants of their options, and the score that decides. Trials that
are done are not run again, and one that fails does not stop the others: the same command goes on.
"""

from pipeline import cli
from pipeline.studies.config import StudyConfig


def main(argv: list[str]) -> None:
    config = cli.parse(StudyConfig, argv, description=__doc__ or "")
    from pipeline.studies.run import list_studies, study

    print(list_studies() if config.study == "list" else study(config))


if __name__ == "__main__":
    cli.run(main)
