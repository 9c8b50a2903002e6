"""The options of `segpipe export`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import CliPositionalArg

from pipeline.storage import Url

FormatName = Literal[
    "png", "cityscapes", "coco", "coco-polygons", "yolo", "label-studio", "cvat", "fiftyone", "huggingface"
]


class ExportConfig(BaseModel):
    """The options of `segpipe export`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: CliPositionalArg[Url] = Field(description="folder of a finished run: OUTPUT/run_id=…")
    format: FormatName = Field(description="format to write")
    output: Url = Field(description="folder for the export; any fsspec URL")
    where: str | None = Field(
        default=None,
        description='SQL condition on the columns of a row, as in "px_car > 1000 AND mean_confidence < 0.7"; only '
        "these images are exported",
    )
    image_prefix: str | None = Field(
        default=None,
        description="what precedes an image's id in the URL that Label Studio or FiftyOne opens, as in "
        "https://images.example.org/ (default: the images' own URLs)",
    )
    copy_images: bool = Field(
        default=False, description="copy the images into the export (yolo, fiftyone, huggingface)"
    )
    components: bool = Field(
        default=False,
        description="coco, label-studio, cvat: write an object for each connected region of a class, not one for all "
        "its pixels in an image",
    )
    min_area: int = Field(
        default=1, ge=1, description="smallest number of pixels of an exported region; PNG masks keep all regions"
    )
    min_score: float = Field(default=0.0, ge=0, le=1, description="smallest score of an exported box")
