"""Bulk segmentation: masks, and mIoU where there are label maps. The kind of run that `jobs/segment.py` is."""

import posixpath
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from numpy.typing import NDArray

from pipeline import bundle, storage
from pipeline.bulk.config import SegmentConfig
from pipeline.bulk.fetch import Fetched
from pipeline.bulk.kind import Report
from pipeline.bulk.listing import InputImage
from pipeline.bulk.run import run_bulk
from pipeline.bulk.schema import PICTURE, PREDICTED, images_schema
from pipeline.bulk.segmentation.gallery import draw_gallery
from pipeline.bulk.segmentation.ground_truth import CONFUSION, count, ground_truth_columns, read_label
from pipeline.bulk.segmentation.refine import Refiner
from pipeline.bulk.segmentation.tables import RAW, confusion_of, report_tables, stage_of, totals_of
from pipeline.bundle import Card, load_bundle
from pipeline.data import datasets
from pipeline.data.classes import Classes, classes_like
from pipeline.data.images import encode_mask, from_upright
from pipeline.errors import UserError
from pipeline.predict.segmenter import Prediction, Segmenter, pick_device

# `labels` holds the bytes of the label map [height, width] on the stored pixels, of the type that `label_dtype` names.
# With a CRF to come, `pixels` holds those of the upright image, uint8 RGB, and `scores` the float16 score map.
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
    """Segment the input, or go on with the run that lies in the output.

    Returns:
        the folder of the finished run; None after a dry run.

    Raises:
        UserError: anything that the user has to mend, where possible before a worker starts.
    """
    card = bundle.read_card(config.model)
    if card.classifier is not None:
        raise UserError(f"{storage.redact(config.model)} classifies whole images; it is for jobs/localize.py")
    classes = classes_like(config.classes, card.classes, of="model")
    try:
        config.crf_params.label_compatibility(len(classes))
    except ValueError as error:
        raise UserError(f"--crf-params.{error}") from None
    return run_bulk(Segmenting(config, card, classes))


class Network:
    """See `kind.Model`."""

    def __init__(self, config: SegmentConfig):
        model, card = load_bundle(config.model)
        self._segmenter = Segmenter(
            model,
            preprocessing=card.preprocessing,
            device=pick_device(),
            dtype=config.dtype,
            instances=config.instances,
            keep_scores=config.crf,
        )

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return pixels

    def __call__(self, images: Sequence[NDArray[np.uint8]], truths: Sequence[str | None]) -> list[Prediction]:
        return self._segmenter(images)

    def columns(self, fetched: Fetched, result: Prediction) -> dict[str, Any]:
        labels = np.ascontiguousarray(from_upright(result.labels, fetched.orientation))
        row = {
            "labels": labels.tobytes(),
            "label_dtype": labels.dtype.name,
            "mean_confidence": result.confidence,
            "mean_entropy": result.entropy,
        }
        if result.scores is not None:
            assert fetched.pixels is not None
            row |= {
                "pixels": fetched.pixels.tobytes(),
                "scores": result.scores.tobytes(),
                "score_shape": result.scores.shape,
                "stride": result.stride,
            }
        return row


class Segmenting:
    """See `kind.Kind`.

    Args:
        config: of the run.
        card: of the model.
        classes: of the model, and how label maps write them.
    """

    predicted = SEGMENTED

    def __init__(self, config: SegmentConfig, card: Card, classes: Classes):
        self.config = config
        self.card = card
        self.classes = classes

    def schema(self, run: dict[str, Any]) -> pa.Schema:
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
            if self.config.crf:  # of the masks before it
                own += [pa.field("tp_raw", counts), pa.field("pred_raw", counts), pa.field("confusion_raw", CONFUSION)]
        return images_schema(own, pictures=["mask"], run=run)

    def truth(self, images: list[InputImage]) -> list[str | None]:
        """URLs of label maps."""
        if self.config.labels is None:
            return [None] * len(images)
        by_key = datasets.files_by_key(self.config.labels)
        labels = [by_key.get(datasets.without_image_suffix(image.image_id)) for image in images]
        if images and not any(labels):
            raise UserError(
                f"no label map in {storage.redact(self.config.labels)} has the name of an image; the first image is "
                f"'{images[0].image_id}', the first label map '{min(by_key)}'"
            )
        return labels

    def load(self) -> Network:
        return Network(self.config)

    def refine(self, predicted: Any) -> Any:
        if not self.config.crf:
            return predicted
        refiner = Refiner(self.config, classes=len(self.classes))
        return predicted.map_batches(refiner, batch_size=None, batch_format="pyarrow", num_cpus=1)

    def row(self, predicted: dict[str, Any], truth: str | None) -> dict[str, Any]:
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

    def _ground_truth(self, url: str, predicted: NDArray, before: NDArray | None) -> dict[str, Any]:
        """The counts against a label map, and of the mask before the CRF; a broken one costs the counts, not the
        mask."""
        truth = read_label(url, predicted.shape, self.classes, max_pixels=self.config.max_image_pixels)
        if isinstance(truth, str):
            return {"label_error": truth}
        columns = ground_truth_columns(count(truth, predicted, self.classes))
        if before is not None:
            raw = ground_truth_columns(count(truth, before, self.classes))
            columns |= {f"{name}_raw": raw[name] for name in ("tp", "pred", "confusion")}
        return columns

    def report(self, run: str, files: Sequence[str], images: pa.dataset.Dataset) -> Report:
        sheet = draw_gallery(run, files, self.classes)
        caption = "image, ground truth, prediction"
        if self.config.labels is None:
            return Report({}, {}, sheet, caption)
        stages = {stage_of(images): confusion_of(images, len(self.classes))}
        if self.config.crf:
            stages = {RAW: confusion_of(images, len(self.classes), column="confusion_raw")} | stages
        tables = report_tables(stages, totals_of(images), self.classes)
        by_class = tables["class_report"].sort_by("class_index").drop_columns(["class_index"])
        return Report(tables, {"Scores": tables["dataset_report"], "Classes": by_class}, sheet, caption)
