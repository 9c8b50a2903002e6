"""The description of a comparative study (YAML): a claim, variants of a chain of jobs, and the score that decides."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.cli import merged, read_options
from pipeline.errors import UserError, first_problem

DESCRIPTIONS = Path(__file__).parent / "descriptions"
Job = Literal["train", "train-classifier", "train-detector", "segment", "localize", "detect"]
Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]
Options = dict[str, Any]


class Part(BaseModel):
    """A part of a description; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Step(Part):
    """A job of a trial."""

    job: Job = Field(description="command of segpipe")
    options: Options = Field(default={}, description="options of the job, as in a --config file")


class Score(Part):
    """Where the score of a trial is."""

    step: Name = Field(description="step whose result is scored")
    title: str = Field(description="name of the score for people")
    column: str = Field(description="key of a training record (the best epoch counts), or column of the table")
    table: str | None = Field(
        default=None, description="table of a bulk run, such as dataset_report; none: the records of a training run"
    )
    where: dict[str, str] = Field(
        default={},
        description="values of other columns that choose the table's row; of several rows the last one counts, as "
        "that of the CRF after that of the network",
    )


class Description(Part):
    """A comparative study.

    Options may contain {seed}, and {STEP} for the result of an earlier step: the bundle of a training run, or the
    folder of a bulk run.
    """

    claim: str = Field(description="what the paper says")
    paper: str = Field(description="the paper, with the table or figure")
    published: str = Field(description="the paper's own figures")
    steps: dict[Name, Step] = Field(min_length=1, description="jobs of each trial, in order")
    variants: dict[Name, dict[Name, Options]] = Field(
        min_length=2, description="options by step that distinguish each variant"
    )
    score: Score
    expect: tuple[Annotated[tuple[Name, ...], Field(min_length=2)], ...] = Field(
        min_length=1, description="chains of variants as the claim orders them, the best one last"
    )
    seeds: int = Field(default=3, ge=1, description="trials of each variant, which differ in the seed of training")

    @model_validator(mode="after")
    def _consistent(self) -> "Description":
        unknown = {step for options in self.variants.values() for step in options} - self.steps.keys()
        if unknown:
            raise ValueError(f"variants: there is no step '{min(unknown)}'; there are {', '.join(self.steps)}")
        if self.score.step not in self.steps:
            raise ValueError(f"score: there is no step '{self.score.step}'; there are {', '.join(self.steps)}")
        missing = [name for chain in self.expect for name in chain if name not in self.variants]
        if missing:
            raise ValueError(f"expect: there is no variant '{missing[0]}'; there are {', '.join(self.variants)}")
        seen: dict[str, str] = {}
        for name in self.variants:
            text = json.dumps(
                [merged(step.options, self.variants[name].get(key, {})) for key, step in self.steps.items()]
            )
            if text in seen:
                raise ValueError(f"variants: '{seen[text]}' and '{name}' differ in nothing")
            seen[text] = name
        return self


def names() -> list[str]:
    """Return the names of the descriptions in the package."""
    return sorted(file.stem for file in DESCRIPTIONS.glob("*.yaml"))


def read_description(name: str) -> Description:
    """Read a description of the package by its name, or another by its URL, which ends in .yaml.

    Raises:
        UserError: It is not there or not valid.
    """
    if not name.endswith((".yaml", ".yml")) and name not in names():
        raise UserError(f"there is no study '{name}'; there are {', '.join(names())}, or the URL of a .yaml file")
    url = str(DESCRIPTIONS / f"{name}.yaml") if name in names() else name
    try:
        return Description(**read_options(url, noun="description of a study"))
    except ValidationError as error:
        raise UserError(f"description of a study {name}: {first_problem(error)}") from None


def resolve(description: Description, own: Options, variant: str, step: str) -> Options:
    """Return the options of a step of a variant: the description's, then the user's, then the variant's.

    Raises:
        UserError: The user's options name no step.
    """
    unknown = own.keys() - description.steps.keys()
    if unknown:
        raise UserError(
            f"--options: the study has no step '{min(unknown)}'; it has {', '.join(description.steps)}, and options "
            "belong below the name of a step"
        )
    return merged(description.steps[step].options, own.get(step) or {}, description.variants[variant].get(step, {}))
