"""Options that every bulk run has."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.data.preprocessing import DType
from pipeline.retry import PATIENCE
from pipeline.storage import Url

# Options that change no row: where and how fast the run computes, and what is only printed.
_INCIDENTAL = {"model", "output", "run_id", "scaling", "store", "dry_run"}


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
        "2,048 after the first 10,000 shards; with a dense CRF at most 64, and 512)",
    )
    max_bytes: int | None = Field(
        default=None,
        ge=1,
        description="largest sum of file sizes in a shard, in bytes; a larger image is a shard of its own (default: "
        "32 MiB, and 256 MiB after the first 10,000 shards)",
    )


class BulkConfig(BaseModel):
    """Options that every bulk run has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Url = Field(description="bundle: the output folder of the job that trained the model")
    images: Url = Field(
        description="folder, glob, .tar or .zip archives (folder, glob, shard-{000..123}.tar), .txt list of URLs, or "
        "Parquet table with a column 'uri' or 'image' (bytes)"
    )
    output: Url = Field(description="folder for runs; this run is written to OUTPUT/run_id=…/")
    run_id: str | None = Field(
        default=None,
        pattern=r"^[\w.+-]+$",
        description="name of the run (default: derived from the model and the options)",
    )
    since: Url | None = Field(
        default=None,
        description="folder of a finished run; process only images that are new or have changed since that run",
    )
    retry_errors: Url | None = Field(
        default=None, description="folder of a finished run; process only images that failed in that run"
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

    @model_validator(mode="after")
    def _one_base(self) -> "BulkConfig":
        if self.since and self.retry_errors:
            raise ValueError("--since and --retry-errors exclude each other")
        return self

    def deciding_options(self) -> dict[str, Any]:
        """Return the options that decide the rows; the others may differ when a run is resumed."""
        return self.model_dump(mode="json", exclude=_INCIDENTAL)
