"""The options of `segpipe report`."""

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import CliPositionalArg

from pipeline.storage import Url


class ReportConfig(BaseModel):
    """The options of `segpipe report`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: CliPositionalArg[list[Url]] = Field(
        description="folder of a finished run, OUTPUT/run_id=…; with --compare two of them, the earlier one first"
    )
    compare: bool = Field(default=False, description="write a page about what differs between two runs")
    output: Url | None = Field(
        default=None, description="HTML file to write (default: report.html of the run; --compare needs it)"
    )

    @model_validator(mode="after")
    def _matching_runs(self) -> "ReportConfig":
        if len(self.runs) != (2 if self.compare else 1):
            wanted = "--compare needs two runs" if self.compare else "name one run, or two with --compare"
            raise ValueError(f"{wanted}; {len(self.runs)} are named")
        if self.compare and self.output is None:
            raise ValueError("--compare needs --output FILE.html")
        return self
