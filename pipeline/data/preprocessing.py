"""How images become a network's input.

CPU tasks unpickle configurations that contain these options, so this module imports nothing but pydantic.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DType = Literal["float32", "bfloat16", "float16"]  # bfloat16 and float16 mean autocast: the weights stay float32

# Altered copies show whether a classifier depends on what it should not need: colour, or the camera's resolution.
View = Literal["as_is", "grey", "half", "double"]


class Preprocessing(BaseModel):
    """Normalisation of each RGB channel: (pixel / 255 - mean) / std.

    The defaults are ImageNet's, which torchvision's weights expect.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, float, float] = Field(
        default=(0.485, 0.456, 0.406), description="mean of each RGB channel, on a scale from 0 to 1"
    )
    std: tuple[float, float, float] = Field(
        default=(0.229, 0.224, 0.225), description="standard deviation of each RGB channel, on a scale from 0 to 1"
    )


class ClassifierInput(BaseModel):
    """The input size of a classifier, and the meaning of its scores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: tuple[int, int] = Field(
        description="height, width to which images are resized; their aspect ratio may change"
    )
    multi_label: bool = Field(description="an image has any number of classes (sigmoid), not exactly one (softmax)")


class Instances(BaseModel):
    """Options of instance-wise inference, which runs a network on proposal boxes instead of whole images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    proposals: int = Field(
        default=0,
        ge=0,
        description="number of proposal boxes to segment in each image (DeconvNet: 50; 0: segment the whole image)",
    )
    min_side: int = Field(
        default=112, ge=1, description="shortest side of a proposal box, in pixels; smaller boxes are left out"
    )
