"""How images become a network's input.

CPU tasks unpickle configurations that contain these options, so this module imports nothing but pydantic.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DType = Literal["float32", "bfloat16", "float16"]  # bfloat16 and float16 mean autocast: the weights stay float32

# Altered copies show whether a classifier depends on what it should not need: colour, or the camera's resolution.
View = Literal["as_is", "grey", "half", "double"]

Side = Annotated[int, Field(ge=1, le=8192)]  # of a classifier's input; a bundle from elsewhere must not fill the memory


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

    size: tuple[Side, Side] = Field(
        description="height, width to which images are resized; their aspect ratio may change"
    )
    multi_label: bool = Field(description="an image has any number of classes (sigmoid), not exactly one (softmax)")


class ProposalOptions(BaseModel):
    """Options of selective search, which proposes the regions that a detector classifies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["fast", "quality"] = Field(
        default="fast", description='"fast", or "quality" with several times more boxes and time'
    )
    limit: int = Field(default=2000, ge=1, le=20_000, description="largest number of proposals of an image")
    longest_side: int = Field(
        default=500, ge=32, description="pixels to which the long side of an image is reduced for the search"
    )


class DetectorInput(BaseModel):
    """What a detector takes besides the image, which it resizes itself, and how large images are for it at most."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    longest_side: int = Field(
        default=2400,
        ge=32,
        le=16_384,
        description="pixels to which the long side of a larger image is reduced before the detector sees it",
    )

    proposals: ProposalOptions | None = Field(
        default=None, description="how regions are proposed; absent if the detector finds boxes by itself"
    )


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


class Windows(BaseModel):
    """Options of sliding windows, in which images are segmented that are too large for one forward pass."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    above: int = Field(
        default=16_000_000,
        ge=1,
        description="number of pixels above which an image is segmented in overlapping windows; at scales above 1, the "
        "pixels of the largest copy count",
    )
    size: int = Field(default=1024, ge=64, multiple_of=32, description="side of a window, in pixels")
    overlap: int = Field(
        default=256, ge=0, multiple_of=32, description="pixels by which neighbouring windows overlap at least"
    )

    @model_validator(mode="after")
    def _advances(self) -> "Windows":
        if self.overlap * 2 > self.size:
            raise ValueError("--windows.overlap must not exceed half of --windows.size")
        return self


class TTAOptions(BaseModel):
    """Options of test-time augmentation, which averages the class probabilities over copies of an image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scales: tuple[Annotated[float, Field(ge=0.25, le=4)], ...] = Field(
        default=(1.0,), min_length=1, description="scales of the image; the class probabilities are averaged"
    )
    flip: bool = Field(default=False, description="average over the image and its mirror image, at each scale")

    @property
    def enlargement(self) -> float:
        """Pixels of the largest copy per pixel of the image, at least 1."""
        return max(1.0, *self.scales) ** 2
