"""How pixels become a network's input. Imports no torch: configurations that hold it travel to CPU tasks."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DType = Literal["float32", "bfloat16", "float16"]  # the latter two mean autocast: weights stay float32

# Altered copies expose what a classifier should not need: colour, or the resolution of the camera.
View = Literal["as_is", "grey", "half", "double"]


class Preprocessing(BaseModel):
    """Per RGB channel: (pixel / 255 - mean) / std. The defaults are ImageNet's, as torchvision's weights expect."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class ClassifierInput(BaseModel):
    """How a classifier is shown images, and what its scores mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: tuple[int, int] = Field(description="height, width to which images are resized; their aspect is not kept")
    multi_label: bool = Field(description="each class by itself (sigmoid); otherwise exactly one (softmax)")


class Instances(BaseModel):
    """Whether and how a network is shown boxes instead of whole images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    proposals: int = Field(
        default=0, ge=0, description="segment so many proposal boxes of each image one by one (DeconvNet: 50; 0: no)"
    )
    min_side: int = Field(default=112, ge=1, description="leave out boxes with a shorter side, in pixels")
