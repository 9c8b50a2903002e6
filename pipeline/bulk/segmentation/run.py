"""Bulk segmentation: masks, and mIoU where there are label maps. `jobs/segment.py` starts it."""

import posixpath
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.bulk.archives.archive import truth_key
from pipeline.bulk.kind import ImagePredictor, RunReport
from pipeline.bulk.listing import InputImage
from pipeline.bulk.run import run_bulk
from pipeline.bulk.schema import PICTURE, PREDICTED, results_schema
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.ground_truth import CONFUSION, count, ground_truth_columns, read_label
from pipeline.card import Card, read_card
from pipeline.data import datasets
from pipeline.data.classes import Classes, classes_like
from pipeline.data.images import encode_mask
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

# `labels` holds the bytes of the label map [height, width] on the stored pixels, with the dtype `label_dtype`. If a CRF
# follows, `pixels` holds the upright image, uint8 RGB, and `scores` the float16 score map.
SEGMENTED = pa.schema(
    [
        *PREDICTED,
        ("labels", pa.large_binary()),
        ("label_dtype", pa.string()),
        ("pixels", pa.large_binary()),
        ("scores", pa.large_binary()),
        ("score_shape", pa.list_(pa.int32())),
        ("stride", pa.int32()),
        ("mean_confidence", pa.float32()),
        ("mean_entropy", pa.float32()),
    ]
)


def segment(config: SegmentConfig) -> str | None:
    """Segment the input, or resume the run in the output.

    Returns:
        The folder of the finished run; None after a dry run.

    Raises:
        UserError: The user has to change something; raised before a worker starts where possible.
    """
    card = read_card(config.model)
    if card.classifier is not None:
        raise UserError(f"{storage.redact(config.model)} classifies whole images; use it with jobs/localize.py")
    classes = classes_like(config.classes, card.classes, owner="model")
    check_crf_params(config, classes)
    return run_bulk(SegmentationRun(config, card, classes))


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

    predicted = SEGMENTED

    def __init__(self, config: SegmentConfig, card: Card, classes: Classes):
        self.config = config
        self.card = card
        self.classes = classes

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

    def truth(self, images: list[InputImage]) -> list[str | None]:
        """Return the URL of each image's label map."""
        if self.config.labels is None:
            return [None] * len(images)
        by_key = datasets.files_by_key(self.config.labels)
        labels = [by_key.get(truth_key(image.image_id, by_key)) for image in images]
        if images and not any(labels):
            raise UserError(
                f"no label map in {storage.redact(self.config.labels)} has the name of an image; the first image is "
                f"'{images[0].image_id}', the first label map '{min(by_key)}'"
            )
        return labels

    def load_predictor(self) -> ImagePredictor:
        """Load the network onto this process's device."""
        from pipeline.bulk.segmentation.predictor import SegmentationPredictor

        return SegmentationPredictor(self.config)

    def warm_up(self) -> None:
        """Compile the CRF, if the run has one."""
        if self.config.crf:
            from pipeline.crf.warm import warm

            warm(classes=len(self.classes), params=self.config.crf_params, mode=self.config.crf_mode)

    def refine(self, predicted: Any) -> Any:
        """Append the CRF stage, if the run has one."""
        if not self.config.crf:
            return predicted
        from pipeline.bulk.segmentation.refine import Refiner

        refiner = Refiner(self.config, num_classes=len(self.classes))
        return predicted.map_batches(refiner, batch_size=None, batch_format="pyarrow", num_cpus=1)

    def row(self, predicted: dict[str, Any], truth: str | None) -> dict[str, Any]:
        """Encode the mask and count its pixels, and its errors if there is a label map."""
        shape = (predicted["height"], predicted["width"])
        labels = np.frombuffer(predicted["labels"], predicted["label_dtype"]).reshape(shape)
        counts = np.bincount(labels.ravel(), minlength=len(self.classes))
        row: dict[str, Any] = {f"px_{slug}": int(n) for slug, n in zip(self.classes.slugs, counts, strict=True)}
        row["mask"] = {
            "bytes": encode_mask(labels, self.classes.palette),
            "path": posixpath.splitext(predicted["image_id"])[0] + ".png",
        }
        if truth is not None:
            raw = predicted.get("raw_labels")
            before = None if raw is None else np.frombuffer(raw, labels.dtype).reshape(shape)
            row |= self._ground_truth(truth, labels, before) | {"label_uri": storage.redact(truth)}
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
        """Draw the gallery, and derive the mIoU tables if there are label maps."""
        from pipeline.bulk.segmentation.gallery import draw_gallery
        from pipeline.bulk.segmentation.tables import run_tables

        sheet = draw_gallery(run, files, self.classes)
        caption = "image, ground truth, prediction"
        if self.config.labels is None:
            return RunReport({}, {}, sheet, caption)
        tables = run_tables(images, self.classes)
        by_class = tables["class_report"].sort_by("class_index").drop_columns(["class_index"])
        return RunReport(tables, {"Scores": tables["dataset_report"], "Classes": by_class}, sheet, caption)
