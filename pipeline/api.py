"""A trained model in Python: for a picture, `Segmenter`, `Classifier` and `Detector` return what a bulk run writes.

All go through the kind of run of the bulk engine, without Ray: the predictor computes, and `RunKind.row` describes. So
the results are the same bits, except that the last bit of a float may differ where a bulk run computes the picture in a
batch with others, or with another number of PyTorch's threads.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from pipeline import storage
from pipeline.bulk.config import BulkConfig
from pipeline.bulk.detection.comparison import CORNERS as BOX
from pipeline.bulk.detection.config import DetectConfig
from pipeline.bulk.detection.run import DetectionRun, detection_run
from pipeline.bulk.fetch import Fetched, StageError
from pipeline.bulk.kind import RunKind
from pipeline.bulk.localization.config import LocalizeConfig
from pipeline.bulk.localization.run import CORNERS, LocalizationRun, localization_run
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import SegmentationRun, segmentation_run
from pipeline.data.images import (
    DecodedImage,
    ImageError,
    decode_image,
    decode_mask,
    decode_pillow,
    from_upright,
)
from pipeline.data.naming import LabelNames
from pipeline.data.presets import DatasetSplit
from pipeline.errors import UserError, first_problem
from pipeline.picture_results import Classification, Detection, Segmentation
from pipeline.suggestions import did_you_mean

Picture = str | os.PathLike | bytes | NDArray[np.uint8] | Image.Image
"""A path or URL, an encoded file, a uint8 array [h, w] or [h, w, 3] of grey or RGB values, or a Pillow image."""

# What the options of `segpipe segment` and `localize` decide beyond a single picture has no meaning here.
_OF_TRUTH = {"labels", *LabelNames.model_fields, *DatasetSplit.model_fields, "classes", "truth"}
_OF_TRUTH |= {"foreground", "foreground_names"}
_OF_RUNS = {*BulkConfig.model_fields, *_OF_TRUTH} - {"dtype", "max_image_pixels"}


class Segmenter:
    """A segmentation network that segments pictures as `segpipe segment` does.

    Args:
        kind: The kind of run with its options.
    """

    def __init__(self, kind: SegmentationRun):
        self._kind = kind
        self._predictor = kind.load_predictor(images=1)
        self.names = kind.classes.names

    @classmethod
    def from_bundle(cls, url: str | os.PathLike, **options: Any) -> "Segmenter":
        """Load a model, on the GPU if there is one.

        Args:
            url: The bundle: the output folder of `segpipe train`.
            options: Options of `segpipe segment` by their names in Python: `crf=True`, `tta={"flip": True}`.

        Raises:
            UserError: There is no such bundle or option.
        """
        return cls(segmentation_run(_config(SegmentConfig, url, options)))

    def __call__(self, picture: Picture) -> Segmentation:
        """Segment a picture.

        Raises:
            UserError: It cannot be read.
        """
        computed = _compute(self._kind, self._predictor, picture)
        row = computed.row
        classes = self._kind.classes
        return Segmentation(
            labels=_labels(row["mask"]["bytes"], len(classes)),
            confidence=row["mean_confidence"],
            entropy=row["mean_entropy"],
            names=classes.names,
            palette=classes.palette,
            pixels=computed.stored,
            mask=row["mask"]["bytes"],
        )


class Classifier:
    """A classifier that says what pictures show and where, as `segpipe localize` does.

    Args:
        kind: The kind of run with its options.
    """

    def __init__(self, kind: LocalizationRun):
        self._kind = kind
        self._predictor = kind.load_predictor(images=1)
        self.names = kind.classes.names

    @classmethod
    def from_bundle(cls, url: str | os.PathLike, **options: Any) -> "Classifier":
        """Load a model, on the GPU if there is one.

        Args:
            url: The bundle: the output folder of `segpipe train-classifier`.
            options: Options of `segpipe localize` by their names in Python: `top=3`, `boxes={"regions": "all"}`.

        Raises:
            UserError: There is no such bundle or option.
        """
        return cls(localization_run(_config(LocalizeConfig, url, options)))

    def __call__(self, picture: Picture) -> Classification:
        """Classify a picture.

        Raises:
            UserError: It cannot be read.
        """
        computed = _compute(self._kind, self._predictor, picture)
        row, result = computed.row, computed.result
        names = self._kind.classes.names
        upright = self._kind.heatmaps(result.maps[: result.found], computed.picture.pixels.shape[:2])
        maps = [np.ascontiguousarray(from_upright(one, computed.picture.orientation)) for one in upright]
        found = tuple(names[k] for k in result.classes[: result.found])
        mask_names = () if self._kind.mask_classes is None else self._kind.mask_classes.names
        return Classification(
            probabilities=dict(zip(names, map(float, row["probabilities"]), strict=True)),
            found=found,
            maps=dict(zip(found, maps, strict=True)),
            boxes={entry["class"]: _corners(entry["boxes"]) for entry in row["classes"] if entry["found"]},
            labels=_labels(row["mask"]["bytes"], len(mask_names)) if mask_names else None,
            mask_names=mask_names,
            pixels=computed.stored,
        )


class Detector:
    """A detector that finds objects in pictures as `segpipe detect` does.

    Args:
        kind: The kind of run with its options.
    """

    def __init__(self, kind: DetectionRun):
        self._kind = kind
        self._predictor = kind.load_predictor(images=1)
        self.names = kind.classes.names

    @classmethod
    def from_bundle(cls, url: str | os.PathLike, **options: Any) -> "Detector":
        """Load a model, on the GPU if there is one.

        Args:
            url: The bundle: the output folder of `segpipe train-detector`.
            options: Options of `segpipe detect` by their names in Python: `min_score=0.5`.

        Raises:
            UserError: There is no such bundle or option.
        """
        return cls(detection_run(_config(DetectConfig, url, options)))

    def __call__(self, picture: Picture) -> Detection:
        """Find the objects in a picture.

        Raises:
            UserError: It cannot be read.
        """
        computed = _compute(self._kind, self._predictor, picture)
        found = computed.row["detections"]
        palette = {name: tuple(rgb) for name, rgb in zip(self.names, self._kind.classes.palette.tolist(), strict=True)}
        return Detection(
            boxes=np.array([[entry[name] for name in BOX] for entry in found], np.float32).reshape(-1, 4),
            classes=tuple(entry["class"] for entry in found),
            scores=np.array([entry["score"] for entry in found], np.float32),
            palette=palette,
            pixels=computed.stored,
        )


Config = TypeVar("Config", bound=BulkConfig)


def _config(kind: type[Config], url: str | os.PathLike, options: Mapping[str, Any]) -> Config:
    """Return the configuration of a run over a picture; what it says about input and output is not used."""
    known = sorted(set(kind.model_fields) - _OF_RUNS)
    unknown = [name for name in options if name not in known]
    if unknown:
        hint = did_you_mean(unknown[0], known, otherwise=f"there are {', '.join(known)}")
        raise UserError(f"unknown option {unknown[0]}; {hint}")
    threads = {"cpus_per_actor": torch.get_num_threads()}  # as the caller has set them
    try:
        return kind(model=os.fspath(url), images="-", output="-", scaling=threads, **options)
    except ValidationError as error:
        raise UserError(first_problem(error)) from None


class Computed(NamedTuple):
    """A picture with its results.

    Attributes:
        picture: The upright pixels and their orientation.
        stored: The stored pixels, uint8 [height, width, 3].
        result: What the predictor returned.
        row: The columns of its row.
    """

    picture: DecodedImage
    stored: NDArray[np.uint8]
    result: Any
    row: dict[str, Any]


def _compute(kind: RunKind, predictor: Any, picture: Picture) -> Computed:
    """Compute a picture as the engine does."""
    decoded = _decode(picture, max_pixels=kind.config.max_image_pixels)
    pixels, orientation = decoded
    stored = np.ascontiguousarray(from_upright(pixels, orientation))
    fetched = Fetched(
        "picture.png",
        height=stored.shape[0],
        width=stored.shape[1],
        pixels=pixels if kind.refines else None,  # `row` decides by it whether masks are refined
        orientation=orientation,
    )
    (result,) = predictor([kind.prepare(pixels)], [None])
    try:
        return Computed(decoded, stored, result, kind.row(fetched, result))
    except StageError as error:
        raise RuntimeError(error.args[0].message) from error


def _decode(picture: Picture, *, max_pixels: int) -> DecodedImage:
    name = "the picture"
    try:
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
                raise UserError(
                    f"an array {picture.dtype} {list(picture.shape)}; expected uint8 [height, width, 3] of RGB values, "
                    "or [height, width] of grey values"
                )
            return decode_pillow(Image.fromarray(picture))
        if isinstance(picture, Image.Image):
            return decode_pillow(picture)
        if not isinstance(picture, bytes):
            url = os.fspath(picture)
            name = storage.redact(url)
            with storage.friendly_errors(url, "cannot read"):
                picture = storage.read_bytes(url)
        return decode_image(picture, max_pixels=max_pixels)
    except ImageError as error:
        raise UserError(f"{name}: {error}") from None


def _labels(mask: bytes, classes: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    labels = decode_mask(mask)
    return labels.astype(np.uint8) if classes <= 256 else labels.astype(np.uint16)


def _corners(boxes: list[dict[str, int]]) -> NDArray[np.int32]:
    return np.array([[box[name] for name in CORNERS] for box in boxes], np.int32).reshape(-1, 4)
