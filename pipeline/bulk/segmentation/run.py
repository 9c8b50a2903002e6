"""Bulk segmentation: masks, and mIoU where there are label maps. `segpipe segment` starts it."""

import copy
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.bulk.archives.archive import truth_key
from pipeline.bulk.fetch import Fetched
from pipeline.bulk.kind import ImagePredictor, RunReport
from pipeline.bulk.outcome import Outcome
from pipeline.bulk.run import run_bulk
from pipeline.bulk.schema import PICTURE, results_schema
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.ground_truth import CONFUSION, count, ground_truth_columns, read_label
from pipeline.card import Card, read_card
from pipeline.data import datasets
from pipeline.data.classes import Classes, classes_like
from pipeline.data.images import count_pixels, encode_mask, from_upright
from pipeline.data.naming import proposal
from pipeline.errors import UserError
from pipeline.predict.prediction import Prediction

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

CRF_PLACES = {
    "auto": "in the predictors if they have GPUs, else in CPU tasks",
    "cpu": "in CPU tasks",
    "gpu": "in the predictors, on their GPUs",
}


def segment(config: SegmentConfig, outcome: Outcome | None = None) -> str | None:
    """Segment the input, or resume the run in the output.

    Args:
        config: Options of the run.
        outcome: Filled in while the run goes on.

    Returns:
        The folder of the finished run; None after a dry run.

    Raises:
        UserError: The user has to change something; raised before a worker starts where possible.
    """
    return run_bulk(segmentation_run(config), outcome)


def segmentation_run(config: SegmentConfig) -> "SegmentationRun":
    """Return the kind of run of some options.

    Raises:
        UserError: The model or the options do not fit.
    """
    card = read_card(config.model)
    if card.classifier is not None:
        raise UserError(f"{storage.redact(config.model)} classifies whole images; use it with segpipe localize")
    if card.detector is not None:
        raise UserError(f"{storage.redact(config.model)} is a detector; use it with segpipe detect")
    classes = classes_like(config.classes, card.classes, owner="model")
    check_crf_params(config, classes)
    return SegmentationRun(config, card, classes)


def check_crf_params(config: Any, classes: Classes) -> None:
    """Refuse CRF parameters that do not fit the number of classes.

    Args:
        config: A configuration with `crf_params`.
        classes: Classes of the model.

    Raises:
        UserError: The label compatibility has another size.
    """
    try:
        config.crf_params.label_compatibility(len(classes))
    except ValueError as error:
        raise UserError(f"--crf-params.{error}") from None


class SegmentationRun:
    """A bulk run that segments; see `kind.RunKind`.

    Args:
        config: Configuration of the run.
        card: Card of the model.
        classes: Classes of the model, with the label values of the ground truth.
    """

    seconds_per_image = 0.0

    def __init__(self, config: SegmentConfig, card: Card, classes: Classes):
        self.config = config
        self.card = card
        self.classes = classes

    @property
    def refines(self) -> bool:
        """Whether CPU tasks refine the masks by the dense CRF."""
        return self.config.crf and self.config.crf_device != "gpu"

    def placed(self, *, use_gpu: bool | None) -> tuple["SegmentationRun", str]:
        """Let the dense CRF run in the predictors or in CPU tasks; see `kind.PlacedByDevice`."""
        if not self.config.crf:
            return self, ""
        device = place = self.config.crf_device
        if device == "gpu" and use_gpu is False:
            raise UserError("--crf-device gpu needs predictors with GPUs, and these have none; leave the option out")
        reason = f"--crf-device {device}"
        if use_gpu is not None:
            place = "gpu" if use_gpu and device != "cpu" else "cpu"
            reason += f", predictors {'with' if use_gpu else 'without'} GPUs"
        placed = copy.copy(self)
        placed.config = self.config.model_copy(update={"crf_device": place})
        return placed, f"the dense CRF runs {CRF_PLACES[place]} ({reason})"

    def images_schema(self, metadata: dict[str, Any]) -> pa.Schema:
        """Return the schema of `images`: mask and class counts, with counts against label maps if there are any."""
        own = [
            pa.field("mask", PICTURE),
            *(pa.field(f"px_{slug}", pa.int32()) for slug in self.classes.slugs),
            pa.field("mean_confidence", pa.float32()),
            pa.field("mean_entropy", pa.float32()),
        ]
        if self.config.crf:
            own += [pa.field("t_crf_ms", pa.float32()), pa.field("crf_changed_px", pa.int32())]
        if self.config.labels is not None:
            counts = pa.list_(pa.int32())
            own += [
                pa.field("label_uri", pa.string()),
                pa.field("label_error", pa.string()),
                pa.field("tp", counts),
                pa.field("gt", counts),
                pa.field("pred", counts),
                pa.field("ignored_px", pa.int32()),
                pa.field("invalid_label_px", pa.int32()),
                pa.field("confusion", CONFUSION),
            ]
            if self.config.crf:  # of the network's own masks
                own += [pa.field("tp_raw", counts), pa.field("pred_raw", counts), pa.field("confusion_raw", CONFUSION)]
        return results_schema(own, pictures=["mask"], metadata=metadata)

    def truth(self, ids: Iterable[list[str]]) -> Iterator[Sequence[str | None]]:
        """Yield the URLs of the images' label maps."""
        if self.config.labels is None:
            yield from ([None] * len(some) for some in ids)
            return
        files = datasets.files_by_key(self.config.labels)
        by_key = datasets.by_image(files, self.config)
        first, is_any = list[str](), False
        for some in ids:
            labels = [by_key.get(truth_key(image_id, by_key)) for image_id in some]
            first, is_any = first or some, is_any or any(labels)
            yield labels
        if first and not is_any:
            advice = proposal([truth_key(image_id, by_key) for image_id in first], files, names=self.config)
            raise UserError(
                f"no label map in {storage.redact(self.config.labels)} has the name of an image; the first image is "
                f"'{first[0]}', the first label map '{min(files)}'{advice}"
            )

    def load_predictor(self, images: int) -> ImagePredictor:
        """Load the network onto this process's device."""
        from pipeline.bulk.segmentation.predictor import SegmentationPredictor

        return SegmentationPredictor(self.config, images=images)

    def warm_up(self) -> None:
        """Compile the CRF."""
        from pipeline.crf.warm import warm

        warm(classes=len(self.classes), params=self.config.crf_params, mode=self.config.crf_mode)

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the pixels as they are."""
        return pixels

    def row(self, fetched: Fetched, result: Prediction) -> dict[str, Any]:
        """Refine the mask if the run has a CRF, encode it, and count its pixels and, with a label map, its errors."""
        labels = network = from_upright(result.labels, fetched.orientation)
        row: dict[str, Any] = {"mean_confidence": result.confidence, "mean_entropy": result.entropy}
        if self.config.crf:
            from pipeline.bulk.segmentation.refine import refine

            refined = refine(fetched, result, self.config)
            labels = refined.labels.astype(network.dtype)
            row |= {"t_crf_ms": refined.milliseconds, "crf_changed_px": int(np.count_nonzero(labels != network))}
        counts = count_pixels(labels, len(self.classes))
        row |= {f"px_{slug}": n for slug, n in zip(self.classes.slugs, counts, strict=True)}
        row["mask"] = {
            "bytes": encode_mask(labels, self.classes.palette),
            "path": posixpath.splitext(fetched.image_id)[0] + ".png",
        }
        if fetched.truth is not None:
            row["label_uri"] = storage.redact(fetched.truth)
            row |= self._ground_truth(fetched.truth, labels, network if self.config.crf else None)
        return row

    def _ground_truth(self, url: str, mask: NDArray, before: NDArray | None) -> dict[str, Any]:
        """Count a mask against its label map, and the mask before the CRF; a broken label map costs only the counts."""
        truth = read_label(url, mask.shape, self.classes, max_pixels=self.config.max_image_pixels)
        if isinstance(truth, str):
            return {"label_error": truth}
        columns = ground_truth_columns(count(truth, mask, self.classes))
        if before is not None:
            raw = ground_truth_columns(count(truth, before, self.classes))
            columns |= {f"{name}_raw": raw[name] for name in ("tp", "pred", "confusion")}
        return columns

    def report(self, run: str, files: Sequence[str], images: "Dataset") -> RunReport:
        """Draw the pictures, and derive the mIoU tables if there are label maps."""
        from pipeline.bulk.segmentation.page import run_page
        from pipeline.bulk.segmentation.tables import run_tables

        tables = {} if self.config.labels is None else run_tables(images, self.classes)
        return run_page(run, files, images, self.classes, tables)
