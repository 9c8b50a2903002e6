"""Options for drawing training crops."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Side = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Augmentation(BaseModel):
    """How a training crop is drawn from an image: by default a random scale, window and flip."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crop: tuple[Side, Side] = Field(
        default=(321, 321), description="height, width of a training crop, in pixels; smaller images are padded"
    )
    scale: tuple[Positive, Positive] = Field(default=(0.5, 2.0), description="range of the random scale")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a left-right flip")
    rotate: float = Field(default=0.0, ge=0, le=180, description="largest rotation in either direction, in degrees")
    translate: int = Field(default=0, ge=0, description="largest shift of the crop in each direction, in pixels")
    elastic: float = Field(
        default=0.0, ge=0, description="standard deviation of U-Net's elastic deformation, in pixels (paper: 10)"
    )
    max_class_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="largest share of a crop that one class may cover; other crops are drawn again (usual: 0.75)",
    )
    class_aware: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="probability that a crop is placed around a pixel of a class drawn from those in the image, each "
        "as likely as any other, so that rare classes are seen more often (rotation, translation and elastic "
        "deformation may move the pixel out of it)",
    )
    brightness: float = Field(default=0.0, ge=0, le=1, description="x for a brightness factor from 1 - x to 1 + x")
    contrast: float = Field(default=0.0, ge=0, le=1, description="x for a contrast factor from 1 - x to 1 + x")
    saturation: float = Field(default=0.0, ge=0, le=1, description="x for a saturation factor from 1 - x to 1 + x")
    hue: float = Field(
        default=0.0, ge=0, le=180, description="largest rotation of the hues in either direction, in degrees"
    )
    gamma: float = Field(default=0.0, ge=0, le=0.5, description="range of FRRN's gamma augmentation (paper: 0.05)")
    blur: float = Field(default=0.0, ge=0, le=1, description="probability of a Gaussian blur")
    blur_sigma: tuple[Positive, Positive] = Field(
        default=(0.1, 2.0), description="range of the blur's standard deviation, in pixels"
    )
    cutmix: float = Field(
        default=0.0, ge=0, le=1, description="probability of CutMix: a box of the crop is replaced by another crop"
    )
    copy_paste: float = Field(
        default=0.0, ge=0, le=1, description="probability of copy-paste: classes of another crop are pasted"
    )
    paste_classes: tuple[int, ...] = Field(
        default=(), description="indices of the classes that copy-paste may paste (default: all)"
    )
    focus: Literal["image", "objects", "proposals"] = Field(
        default="image",
        description="image: crop the whole image. objects: crop around one object, with everything else as background "
        "(DeconvNet's first stage). proposals: crop a selective-search box that overlaps an object (DeconvNet's second "
        "stage; needs the extra 'proposals')",
    )
    focus_size: Side = Field(
        default=250, description="side of the square to which objects and proposals are resized, in pixels"
    )
    background: int = Field(
        default=0, ge=0, description="index of the class that is no object, for objects and proposals"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Augmentation":
        for name in ("scale", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: {low} is above {high}")
        return self
