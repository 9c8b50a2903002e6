"""What a bulk segmentation run is told."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.crf.params import CRFParams, Mode
from pipeline.preprocessing import DType, Instances
from pipeline.storage import Url

# What does not change a row: where and how fast the run goes, and what is only shown.
_INCIDENTAL = {"model", "output", "run_id", "scaling", "dry_run"}


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scaling(_Group):
    """Where the run computes."""

    actors: int | None = Field(
        default=None,
        ge=1,
        description="predictor processes (default: one per GPU; without GPUs all CPUs but two)",
    )
    cpus_per_actor: int = Field(default=1, ge=1, description="CPUs (threads) of each predictor")
    use_gpu: bool | None = Field(default=None, description="default: where the cluster has GPUs")
    fetch_threads: int = Field(default=16, ge=1, description="files that each predictor fetches at a time")
    wait_for_nodes: bool = Field(
        default=False, description="start although the cluster is too small: an autoscaler will add nodes"
    )


class Sharding(_Group):
    """How the list of images is cut into shards, the units of work, writing and resuming."""

    max_images: int | None = Field(
        default=None, ge=1, description="images in a shard (default: 16 to 256 by the size of the input)"
    )
    max_bytes: int = Field(default=32 * 2**20, ge=1, description="encoded bytes in a shard")

    def images_for(self, total: int) -> int:
        """Enough shards to share out and to resume from, and not so small that each costs more than its images."""
        return self.max_images or min(256, max(16, total // 32))


class SegmentConfig(_Group):
    """The options of `jobs/segment.py`."""

    model: Url = Field(description="bundle: the output folder of jobs/train.py")
    images: Url = Field(
        description="folder, glob, .txt list of URLs, or Parquet table with a column 'uri' or 'image' (bytes)"
    )
    output: Url = Field(description="folder for runs; this one becomes OUTPUT/run_id=…/")
    labels: Url | None = Field(default=None, description="folder of label maps, for mIoU tables")
    classes: Url | None = Field(default=None, description="class file of the labels, if not the one of the model")
    run_id: str | None = Field(
        default=None,
        pattern=r"^[\w.+-]+$",
        description="name of the run (default: made of model and options)",
    )
    since: Url | None = Field(
        default=None, description="folder of a finished run: only images that are new or changed since"
    )
    retry_errors: Url | None = Field(default=None, description="folder of a finished run: only its error rows")
    instances: Instances = Instances()
    crf: bool = Field(default=False, description="refine the masks by a dense CRF, on CPUs beside the predictors")
    crf_mode: Mode = Field(
        default="pruned",
        description="exact; pruned: without the classes that are not in an image (differs at under 1 of 10,000 "
        "pixels); fast: that, and at half the resolution (differs at up to 1 of 50)",
    )
    crf_params: CRFParams = CRFParams()
    dtype: DType = Field(default="float32", description="float32; bfloat16 or float16 for autocast")
    batch_pixels: int = Field(default=1_000_000, ge=1, description="pixels in a micro-batch of equal shape")
    max_image_pixels: int = Field(default=50_000_000, ge=1, description="larger images become error rows")
    sharding: Sharding = Sharding()
    scaling: Scaling = Scaling()
    dry_run: bool = Field(default=False, description="print the plan and stop")

    @model_validator(mode="after")
    def _fits_together(self) -> "SegmentConfig":
        if self.since and self.retry_errors:
            raise ValueError("--since and --retry-errors exclude each other")
        if not self.crf and (self.crf_mode != "pruned" or self.crf_params != CRFParams()):
            raise ValueError("the options of a CRF are told but --crf is not")
        return self

    def what_decides_the_result(self) -> dict[str, Any]:
        """The configuration without what may differ when a run is resumed."""
        return self.model_dump(mode="json", exclude=_INCIDENTAL)
