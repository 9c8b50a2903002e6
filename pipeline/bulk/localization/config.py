"""The options of `segpipe localize`, `segpipe pseudo-labels` and `segpipe check-detector`."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.bulk.config import BulkConfig, BulkScaling
from pipeline.cam.options import IRN_CRF, BoxOptions, MapOptions
from pipeline.crf.params import CRFParams
from pipeline.data.naming import LabelNames
from pipeline.data.preprocessing import View
from pipeline.storage import Url


class LocalizeConfig(BulkConfig):
    """The options of `segpipe localize`."""

    job: ClassVar[str] = "localize"

    min_probability: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="smallest probability of a class that counts as found and has boxes (default: 0.5 for a "
        "multi-label classifier, else 0)",
    )
    top: int | None = Field(
        default=None,
        ge=1,
        description="largest number of classes found in an image (default: 1, or all for a multi-label classifier)",
    )
    maps: MapOptions = MapOptions()
    boxes: BoxOptions = BoxOptions()
    mask: Literal["none", "threshold", "crf"] = Field(
        default="none",
        description="masks of the classes found. none: no masks. threshold: pixels whose map exceeds "
        "--mask-background. crf: the same, aligned with the edges of the image by a dense CRF",
    )
    mask_background: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="constant score of the background in --mask threshold and crf, as a share of a map's maximum",
    )
    crf_params: CRFParams = Field(default=IRN_CRF, description="parameters of the CRF of --mask crf (default: IRN's)")
    heatmaps: bool = Field(
        default=True,
        description="store the maps at the size of the network's features, as segpipe pseudo-labels needs them",
    )
    truth: Url | None = Field(
        default=None,
        description="ground truth: a table (.csv, .parquet) of image, label and optionally xmin, ymin, xmax, ymax, or "
        "a folder of Pascal VOC .xml files; an image that it does not name contains nothing",
    )
    foreground: Url | None = Field(
        default=None,
        description="folder of masks for PxAP: 0 background, 255 ignored, any other value the object; "
        "--foreground-names pairs names that differ from those of the images",
    )
    foreground_names: LabelNames = Field(default=LabelNames(), description="names of the masks of --foreground")
    threshold_from: Url | None = Field(
        default=None, description="folder of a finished run with boxes: score at the best threshold of that run as well"
    )
    score_step: float = Field(default=0.01, gt=0, le=0.5, description="distance between the thresholds that are scored")
    view: View = Field(
        default="as_is",
        description="predict on grey copies, or at half or double resolution, to see what the classifier relies on",
    )


class PseudoLabelsConfig(BaseModel):
    """The options of `segpipe pseudo-labels`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Url = Field(description="folder of a finished run of segpipe localize over the training images, with heatmaps")
    output: Url = Field(description="folder for labels/, classes.yaml and a table of the images")
    sure_foreground: float = Field(
        default=0.3, ge=0, le=1, description="pixels above this share of a map's maximum are foreground"
    )
    sure_background: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="pixels below this share of a map's maximum are background; those between it and "
        "--sure-foreground are ignored",
    )
    crf: bool = Field(default=True, description="align the labels with the edges of the image by a dense CRF")
    crf_params: CRFParams = Field(default=IRN_CRF, description="parameters of the CRF (default: IRN's)")

    @model_validator(mode="after")
    def _ordered(self) -> "PseudoLabelsConfig":
        if self.sure_background > self.sure_foreground:
            raise ValueError("--sure-background is above --sure-foreground")
        return self


class TargetCheckConfig(BaseModel):
    """The options of `segpipe check-detector`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Url = Field(description="bundle: the output folder of segpipe train-classifier")
    positive: Url = Field(
        description="images that show the target and were not used in training, given as for segpipe localize --images"
    )
    negative: Url = Field(description="images that do not show the target, given in the same ways")
    truth: Url | None = Field(
        default=None,
        description="boxes around the target: a table (.csv, .parquet) or a folder of Pascal VOC .xml files",
    )
    target: str | None = Field(default=None, description="class of the target (default: the only class of the model)")
    output: Url = Field(description="folder for the two runs of each view and for the table of scores")
    views: tuple[View, ...] = Field(
        default=("as_is", "grey", "half", "double"),
        min_length=1,
        description="views of the images to test; a detector should not depend on colour or on one resolution",
    )
    scaling: BulkScaling = BulkScaling()
