"""The options of `segpipe query`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import CliPositionalArg

from pipeline.storage import Url

Format = Literal["table", "csv", "json", "parquet"]
SUFFIXES: dict[str, Format] = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


class QueryConfig(BaseModel):
    """The options of `segpipe query`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: CliPositionalArg[Url] = Field(
        description="folder of a run, OUTPUT/run_id=…, or the --output of jobs: then its newest finished run"
    )
    sql: CliPositionalArg[str | None] = Field(
        default=None, description="one SELECT statement in DuckDB's SQL (default: list the views and their columns)"
    )
    format: Format | None = Field(
        default=None,
        description="an aligned table, CSV, a JSON object per row, or a Parquet file; CSV and JSON hold binary values "
        "in base64 (default: what the name of --output ends with, else table)",
    )
    output: Url | None = Field(default=None, description="file for the result (default: standard output)")
    limit: int | None = Field(
        default=None, ge=0, description="largest number of rows; 0 for all (default: 100 of a table, all otherwise)"
    )
    run_id: str | None = Field(default=None, description="name of the run below an output folder")
    all_runs: bool = Field(
        default=False,
        description="query all finished runs below an output folder that are of the newest one's job, as one; of an "
        "image that several of them hold, only the row of the newest run counts",
    )
    superseded: bool = Field(
        default=False, description="with --all-runs, also keep the rows that newer runs have superseded"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "QueryConfig":
        if self.run_id is not None and self.all_runs:
            raise ValueError("--run-id and --all-runs exclude each other")
        if self.superseded and not self.all_runs:
            raise ValueError("--superseded needs --all-runs")
        if self.result_format == "parquet" and self.output is None:
            raise ValueError("--format parquet needs --output")
        return self

    @property
    def result_format(self) -> Format:
        """The form of the result."""
        if self.format is not None:
            return self.format
        name = self.output or ""
        return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), "table")

    @property
    def most_rows(self) -> int | None:
        """The largest number of rows; None for all."""
        if self.limit is None:
            return 100 if self.result_format == "table" else None
        return self.limit or None
