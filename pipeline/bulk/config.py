"""What a bulk run is told."""

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.cam.activation import Interpolation, Normalisation, Order
from pipeline.cam.masks import IRN_CRF
from pipeline.crf.params import CRFParams, Mode
from pipeline.data.images import View
from pipeline.data.preprocessing import DType, Instances
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


class BulkConfig(_Group):
    """What every bulk run is told."""

    model: Url = Field(description="bundle: the output folder of the job that trained it")
    images: Url = Field(
        description="folder, glob, .txt list of URLs, or Parquet table with a column 'uri' or 'image' (bytes)"
    )
    output: Url = Field(description="folder for runs; this one becomes OUTPUT/run_id=…/")
    run_id: str | None = Field(
        default=None,
        pattern=r"^[\w.+-]+$",
        description="name of the run (default: made of model and options)",
    )
    since: Url | None = Field(
        default=None, description="folder of a finished run: only images that are new or changed since"
    )
    retry_errors: Url | None = Field(default=None, description="folder of a finished run: only its error rows")
    dtype: DType = Field(default="float32", description="float32; bfloat16 or float16 for autocast")
    batch_pixels: int = Field(default=1_000_000, ge=1, description="pixels in a micro-batch of equal shape")
    max_image_pixels: int = Field(default=50_000_000, ge=1, description="larger images become error rows")
    sharding: Sharding = Sharding()
    scaling: Scaling = Scaling()
    dry_run: bool = Field(default=False, description="print the plan and stop")

    @model_validator(mode="after")
    def _one_base(self) -> "BulkConfig":
        if self.since and self.retry_errors:
            raise ValueError("--since and --retry-errors exclude each other")
        return self

    def what_decides_the_result(self) -> dict[str, Any]:
        """The configuration without what may differ when a run is resumed."""
        return self.model_dump(mode="json", exclude=_INCIDENTAL)


class Maps(_Group):
    """How class activation maps are made of a classifier's features."""

    scales: tuple[Annotated[float, Field(gt=0, le=8)], ...] = Field(
        default=(1.0,), min_length=1, description="of the classifier's input, each shown; maps and scores are averaged"
    )
    flip: bool = Field(default=False, description="show each mirrored as well")
    normalisation: Normalisation = Field(
        default="relu_max",
        description="max: divided by the maximum. relu_max: negative values are 0 first. min_max: the minimum is "
        "subtracted first",
    )
    order: Order = Field(default="resize_first", description="whether maps are resized or normalised first")
    interpolation: Interpolation = "bilinear"


class Boxes(_Group):
    """How boxes are drawn around what a map shows."""

    regions: Literal["largest", "all", "distance"] = Field(
        default="largest",
        description="largest: around the largest connected part above the threshold (the CAM paper). all: around each. "
        "distance: as the paper's released code, at three levels of its own",
    )
    threshold: float = Field(default=0.2, ge=0, le=1, description="share of the map's maximum")
    min_share: float = Field(default=0.0, ge=0, le=1, description="all: least share of the largest part's pixels")


class LocalizeConfig(BulkConfig):
    """The options of `jobs/localize.py`."""

    min_probability: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="what is less probable is not found and has no box (default: 0.5 where each class is by itself)",
    )
    top: int | None = Field(
        default=None, ge=1, description="find at most so many classes (default: 1 where an image shows exactly one)"
    )
    maps: Maps = Maps()
    boxes: Boxes = Boxes()
    mask: Literal["none", "threshold", "crf"] = Field(
        default="none",
        description="masks of what was found: where maps are above --mask_background; refined by a CRF",
    )
    mask_background: float = Field(default=0.2, ge=0, le=1, description="the background's score, of a map's maximum")
    crf_params: CRFParams = Field(default=IRN_CRF, description="--mask crf: of the CRF; IRN's")
    heatmaps: bool = Field(default=True, description="keep the maps, at the size of the network's features")
    truth: Url | None = Field(
        default=None,
        description="what the images show, for scores: a table (.csv, .parquet) of image, label and perhaps xmin, "
        "ymin, xmax, ymax, or a folder of Pascal VOC's .xml. An image that it does not name shows nothing",
    )
    foreground: Url | None = Field(
        default=None, description="folder of label maps for PxAP: 0 background, 255 ignored, all else the object"
    )
    threshold_from: Url | None = Field(
        default=None, description="folder of a finished run with boxes: score at its best threshold as well"
    )
    score_step: float = Field(default=0.01, gt=0, le=0.5, description="of the thresholds that are scored")
    view: View = Field(
        default="as_is", description="change the images first, to see what the classifier looks at: grey, half, double"
    )

    def found_in(self, probabilities: NDArray, *, multi_label: bool) -> list[int]:
        """The classes that count as found in an image, the most probable first."""
        least = self.min_probability if self.min_probability is not None else (0.5 if multi_label else 0.0)
        most = self.top if self.top is not None else (len(probabilities) if multi_label else 1)
        order = np.argsort(-probabilities, kind="stable")[:most]
        return [int(k) for k in order if probabilities[k] >= least]


class SegmentConfig(BulkConfig):
    """The options of `jobs/segment.py`."""

    labels: Url | None = Field(default=None, description="folder of label maps, for mIoU tables")
    classes: Url | None = Field(default=None, description="class file of the labels, if not the one of the model")
    instances: Instances = Instances()
    crf: bool = Field(default=False, description="refine the masks by a dense CRF, on CPUs beside the predictors")
    crf_mode: Mode = Field(
        default="pruned",
        description="exact; pruned: without the classes that are not in an image (differs at under 1 of 10,000 "
        "pixels); fast: that, and with squares of pixels far from edges (differs at 1 of 400)",
    )
    crf_params: CRFParams = CRFParams()

    @model_validator(mode="after")
    def _fits_together(self) -> "SegmentConfig":
        if not self.crf and (self.crf_mode != "pruned" or self.crf_params != CRFParams()):
            raise ValueError("the options of a CRF are told but --crf is not")
        return self
