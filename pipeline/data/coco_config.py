"""The options of `segpipe label-maps`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

from pipeline.storage import Url


class LabelMapsConfig(BaseModel):
    """The options of `segpipe label-maps`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    annotations: CliPositionalArg[Url] = Field(description="COCO file (.json) with segmentations")
    output: Url = Field(description="folder for labels/ and classes.yaml")
    unlabelled: Literal["background", "ignore"] = Field(
        default="background", description="what pixels without annotation are"
    )
