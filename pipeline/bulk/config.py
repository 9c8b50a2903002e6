"""Options that every bulk run has."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from pipeline.data.preprocessing import DType
from pipeline.retry import PATIENCE
from pipeline.storage import Url, absolute
from pipeline.units import Duration

# Options that change no row: where and how fast the run computes, when it stops, and what is only printed or reported.
_INCIDENTAL = {
    "model",
    "output",
    "run_id",
    "scaling",
    "crf_device",
    "store",
    "dry_run",
    "max_error_rate",
    "deadline",
    "last_line",
    "on_end",
    "allow_local_files",
    "allow_queries",
    # What these name is in the options for images, label maps and classes.
    "dataset",
    "root",
    "split",
}

LAST = "last"

EarlierRun = Annotated[str, AfterValidator(lambda url: url if url == LAST else absolute(url))]
"""A field of a configuration that names a run: its folder, or `last`."""


class BulkScaling(BaseModel):
    """Where a bulk run computes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    actors: int | None = Field(
        default=None,
        ge=1,
        description="predictor processes (default: one per GPU; without GPUs, all CPUs but two)",
    )
    cpus_per_actor: int | None = Field(
        default=None,
        ge=1,
        description="CPUs that Ray reserves for each predictor: on a CPU the number of its PyTorch threads, beside a "
        "GPU that of the processes that decode and encode for it (default: 1 on a CPU; beside a GPU its share of the "
        "node's CPUs but one, or 2 if a dense CRF needs the others)",
    )
    use_gpu: bool | None = Field(default=None, description="predict on GPUs (default: if the cluster has any)")
    fetch_threads: int | None = Field(
        default=None,
        ge=1,
        description="files that each predictor fetches at a time (default: 16, or 8 for each of its helper processes)",
    )
    wait_for_nodes: bool = Field(
        default=False, description="start even if the cluster is too small, because an autoscaler will add nodes"
    )


class Store(BaseModel):
    """What happens when the store of the images or of the output fails."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patience: float = Field(
        default=PATIENCE,
        ge=0,
        description="seconds for which a failing or refusing store is asked again, before the shard is left undone",
    )
    unreadable: Literal["leave", "rows"] = Field(
        default="leave",
        description="images that the store does not hand out in that time. leave: their shards stay undone, the run "
        "ends with exit code 3, and the same command tries them again. rows: they become error rows",
    )

    @property
    def give_up(self) -> bool:
        """Whether an image that the store does not hand out becomes an error row."""
        return self.unreadable == "rows"


class Sharding(BaseModel):
    """How the list of images is cut into shards, the units of work, writing and resuming."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_images: int | None = Field(
        default=None,
        ge=1,
        description="largest number of images in a shard (default: 16 to 256, depending on the number of images, and "
        "2,048 after the first 10,000 shards; with a dense CRF or region proposals at most 64, and 512)",
    )
    max_bytes: int | None = Field(
        default=None,
        ge=1,
        description="largest sum of file sizes in a shard, in bytes; a larger image is a shard of its own (default: "
        "32 MiB, and 256 MiB after the first 10,000 shards)",
    )


class OnEnd(BaseModel):
    """What happens when a run ends, whatever its outcome."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: str | None = Field(
        default=None,
        description="shell command to start when the run ends; it reads the JSON of the last line from its standard "
        "input, and has the same values in environment variables SEGPIPE_END_…",
    )
    webhook: SecretStr | None = Field(
        default=None,
        description="https or http URL to which the JSON of the last line is posted when the run ends; set it by the "
        "environment variable SEGPIPE_ON_END__WEBHOOK if the URL is a secret",
    )


class BulkConfig(BaseModel):
    """Options that every bulk run has.

    Attributes:
        job: Name of the job; runs of different jobs are never continuations of each other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    job: ClassVar[str] = "bulk"

    model: Url = Field(description="bundle: the output folder of the job that trained the model")
    images: Url = Field(
        description="folder, glob, .tar or .zip archives (folder, glob, shard-{000..123}.tar), .txt list of URLs, or "
        "Parquet table with a column 'uri' or 'image' (bytes)"
    )
    allow_local_files: bool = Field(
        default=False,
        description="let a list or table on a remote store name files of the workers' own disks; without it, the run "
        "refuses them",
    )
    allow_queries: bool = Field(
        default=False,
        description="accept http(s) URLs with a query (`?…`) from a list or table; the plan of the run stores them. "
        "Signed URLs are refused in any case",
    )
    output: Url = Field(description="folder for runs; this run is written to OUTPUT/run_id=…/")
    run_id: str | None = Field(
        default=None,
        pattern=r"^[\w.+-]+$",
        description="name of the run (default: derived from the model and the options)",
    )
    since: EarlierRun | None = Field(
        default=None,
        description="folder of a finished run; process only images that are new or have changed since that run. last: "
        "the newest finished run of this job over these images in OUTPUT; on the first night, all images",
    )
    retry_errors: EarlierRun | None = Field(
        default=None,
        description="folder of a finished run; process only images that failed in that run. last: the newest finished "
        "run of this job over these images in OUTPUT",
    )
    dtype: DType = Field(
        default="float32", description="precision of the network: float32, or bfloat16 or float16 by autocast"
    )
    batch_pixels: int | None = Field(
        default=None,
        ge=1,
        description="largest number of pixels in a forward pass over images of one shape; a larger image is "
        "computed alone (default: 1,000,000 on a CPU; on a GPU measured at the start and noted in RUN/_run)",
    )
    max_image_pixels: int = Field(
        default=400_000_000,
        ge=1,
        description="largest number of pixels in an image; larger images become error rows (decoding takes 7 bytes of "
        "memory for each pixel)",
    )
    sharding: Sharding = Sharding()
    scaling: BulkScaling = BulkScaling()
    store: Store = Store()
    dry_run: bool = Field(default=False, description="print the plan and stop")
    max_error_rate: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="largest share of images that may fail, 0..1: the run stops once 100 images are done and more than "
        "this share have failed, and ends with exit code 4 if more have failed at its end (default: no limit)",
    )
    deadline: Duration | None = Field(
        default=None,
        description="time such as 6h or 90m after which the run stops with exit code 3, to be resumed by the same "
        "command (default: none)",
    )
    last_line: Literal["auto", "json", "none"] = Field(
        default="auto",
        description="json: the last line on standard output is a JSON object that describes the end of the run. auto: "
        "only if standard output is not a terminal",
    )
    on_end: OnEnd = OnEnd()

    @model_validator(mode="after")
    def _one_base(self) -> "BulkConfig":
        if self.since and self.retry_errors:
            raise ValueError("--since and --retry-errors exclude each other")
        return self

    def deciding_options(self) -> dict[str, Any]:
        """Return the options that decide the rows; the others may differ when a run is resumed."""
        return self.model_dump(mode="json", exclude=_INCIDENTAL)
