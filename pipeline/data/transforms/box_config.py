"""Options for drawing training examples of a detector."""

from pydantic import BaseModel, ConfigDict, Field


class BoxAugmentation(BaseModel):
    """How a training example of a detector is drawn from an image: by default the image or its mirror image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a left-right flip")
    jitter: float = Field(
        default=0.0,
        ge=0,
        le=0.4,
        description="largest shift of each border of the picture, inwards or outwards, as a share of its width or "
        "height, which changes scale, place and aspect ratio (YOLO: 0.2)",
    )
    exposure: float = Field(
        default=1.0, ge=1, description="x for a factor of the brightness between 1 / x and x, in HSV (YOLO: 1.5)"
    )
    saturation: float = Field(
        default=1.0, ge=1, description="x for a factor of the saturation between 1 / x and x, in HSV (YOLO: 1.5)"
    )
    min_visible: float = Field(
        default=0.25, gt=0, le=1, description="smallest share of a box within the picture that counts as the object"
    )
    longest_side: int = Field(
        default=2000, ge=64, description="pixels to which the long side of larger images is reduced for training"
    )
