"""The options of `segpipe detect`."""

from typing import ClassVar

from pydantic import Field

from pipeline.bulk.config import BulkConfig
from pipeline.storage import Url


class DetectConfig(BulkConfig):
    """The options of `segpipe detect`."""

    job: ClassVar[str] = "detect"

    min_score: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="score above which a box is a detection (default: the detector's own; -1 for SVMs, 0.001 for "
        "YOLO, else 0.05)",
    )
    nms_iou: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="IoU of two boxes of a class above which only the one with the higher score is kept (default: the "
        "detector's own; 0.3 or 0.5)",
    )
    max_detections: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="largest number of detections in an image (default: the detector's own, 100)",
    )
    longest_side: int | None = Field(
        default=None,
        ge=32,
        le=16_384,
        description="pixels to which the long side of a larger image is reduced before the detector sees it (default: "
        "the detector's own, 2,400)",
    )
    truth: Url | None = Field(
        default=None,
        description="true boxes: a folder of Pascal VOC .xml files, a COCO .json file, or a table (.csv, .parquet) of "
        "image, label, xmin, ymin, xmax, ymax and perhaps difficult and crowd; an image that it does not name is not "
        "scored, and one that it names without boxes shows none",
    )
