"""The options of `segpipe status` and `segpipe prune`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

from pipeline.storage import Url
from pipeline.units import Duration, Size


class StatusConfig(BaseModel):
    """The options of `segpipe status`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: CliPositionalArg[Url] = Field(description="folder of a run: OUTPUT/run_id=…")
    watch: bool = Field(default=False, description="repeat every --every seconds until the run is finished")
    every: float = Field(default=10, gt=0, description="seconds between two looks at the storage with --watch")
    format: Literal["text", "json"] = Field(default="text", description="text for people, or a JSON object in one line")
    causes: int = Field(default=10, ge=0, description="largest number of causes of errors to print")


class PruneConfig(BaseModel):
    """The options of `segpipe prune`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    output: CliPositionalArg[Url] = Field(description="folder of the runs: the --output of the jobs")
    older_than: Duration | None = Field(
        default=None, description="remove runs that were finished longer ago than this time, such as 30d"
    )
    max_size: Size | None = Field(
        default=None, description="remove the oldest runs until all together are not larger than this, such as 500GiB"
    )
    keep: int | None = Field(
        default=None,
        ge=0,
        description="number of the newest finished runs of each job and input that stay in any case; alone, it removes "
        "the others (default: 1, which --since last needs)",
    )
    unfinished: bool = Field(
        default=False,
        description="also remove unfinished runs to which nothing was written for the time of --older-than",
    )
    yes: bool = Field(default=False, description="remove; otherwise only print what would be removed")
