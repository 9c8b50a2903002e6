"""How training crops are drawn: typed settings, off unless their field says otherwise."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Side = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Augmentation(BaseModel):
    """How a training crop is drawn from an image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    crop: tuple[Side, Side] = Field(
        default=(321, 321), description="height, width of a training crop in pixels; smaller images are padded"
    )
    scale: tuple[Positive, Positive] = Field(default=(0.5, 2.0), description="range of the random scale")
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a left-right flip")
    rotate: float = Field(default=0.0, ge=0, le=180, description="largest angle to either side, in degrees")
    translate: int = Field(default=0, ge=0, description="largest shift of the crop in each direction, in pixels")
    elastic: float = Field(
        default=0.0, ge=0, description="standard deviation of U-Net's elastic deformation, in pixels (paper: 10)"
    )
    max_class_share: float = Field(
        default=1.0, gt=0, le=1, description="draw again where one class covers more of a crop (usual: 0.75)"
    )
    brightness: float = Field(default=0.0, ge=0, le=1, description="factor from 1 - x to 1 + x")
    contrast: float = Field(default=0.0, ge=0, le=1, description="factor from 1 - x to 1 + x")
    saturation: float = Field(default=0.0, ge=0, le=1, description="factor from 1 - x to 1 + x")
    hue: float = Field(default=0.0, ge=0, le=180, description="largest turn to either side, in degrees")
    gamma: float = Field(default=0.0, ge=0, le=0.5, description="FRRN's gamma augmentation (paper: 0.05)")
    blur: float = Field(default=0.0, ge=0, le=1, description="probability of a Gaussian blur")
    blur_sigma: tuple[Positive, Positive] = Field(default=(0.1, 2.0), description="range of its width, in pixels")
    cutmix: float = Field(default=0.0, ge=0, le=1, description="probability that a box shows another image (CutMix)")
    copy_paste: float = Field(default=0.0, ge=0, le=1, description="probability that classes of another are pasted")
    paste_classes: tuple[int, ...] = Field(
        default=(), description="copy_paste: indices of the classes that may be pasted (default: all)"
    )
    focus: Literal["image", "objects", "proposals"] = Field(
        default="image",
        description="what is cropped: the image; one object of it, all else background (DeconvNet's first stage); or a "
        "selective-search box around an object (its second; needs the extra 'proposals')",
    )
    focus_size: Side = Field(default=250, description="objects and proposals are resized to a square of this side")
    background: int = Field(default=0, ge=0, description="objects and proposals: the class that is no object")

    @model_validator(mode="after")
    def _ordered(self) -> "Augmentation":
        for name in ("scale", "blur_sigma"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: {low} is above {high}")
        return self
