"""Options of class activation maps, boxes and masks."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.crf.params import CRFParams

Normalisation = Literal["max", "relu_max", "min_max"]
Order = Literal["resize_first", "normalise_first"]
Interpolation = Literal["bilinear", "bicubic"]

# IRN's parameters (Ahn, Cho & Kwak, CVPR 2019).
IRN_CRF = CRFParams(w1=10, sigma_alpha=50, sigma_beta=5, w2=3, sigma_gamma=3, steps=10)


class MapOptions(BaseModel):
    """How class activation maps are made from a classifier's features."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scales: tuple[Annotated[float, Field(gt=0, le=8)], ...] = Field(
        default=(1.0,), min_length=1, description="scales of the classifier's input; maps and scores are averaged"
    )
    flip: bool = Field(default=False, description="average over the image and its mirror image")
    normalisation: Normalisation = Field(
        default="relu_max",
        description="max: divide by the maximum. relu_max: set negative values to 0 first. min_max: subtract the "
        "minimum first",
    )
    order: Order = Field(default="resize_first", description="whether maps are resized or normalised first")
    interpolation: Interpolation = Field(default="bilinear", description="interpolation when maps are resized")


class BoxOptions(BaseModel):
    """How boxes are drawn around the regions of a map."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    regions: Literal["largest", "all", "distance"] = Field(
        default="largest",
        description="largest: a box around the largest connected region above the threshold (the CAM paper). all: a "
        "box around each region. distance: the three levels of the CAM paper's released code",
    )
    threshold: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="threshold as a share of the map's maximum; --boxes.regions distance has its own",
    )
    min_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="smallest region that gets a box with regions=all, as a share of the largest region's pixels",
    )
