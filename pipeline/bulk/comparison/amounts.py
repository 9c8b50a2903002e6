"""What the rows of a run say about each image: how much of each class it shows, and its score."""

import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.bulk.segmentation.ranking import image_mious
from pipeline.data.classes import Classes

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

Floats = NDArray[np.float32]


class Amounts(NamedTuple):
    """The images of a run that have a result, in the order of the plan.

    Attributes:
        ids: Their ids.
        digests: SHA-256 of their files.
        positions: Their positions in the plan.
        amounts: Amount of each class, float32 [images, classes].
        scores: Score of each image against its ground truth, NaN without, float64 [images].
    """

    ids: list[str]
    digests: list[str | None]
    positions: NDArray[np.int64]
    amounts: Floats
    scores: NDArray[np.float64]


class Measure(NamedTuple):
    """How the images of a kind of run are measured.

    Attributes:
        amount: What an amount is, for people.
        short: The same in a word.
        score: What the score of an image is.
        table: Report table with the score of each class.
        column: Column of that score.
        class_score: What the score of a class is.
        change: What the change between two images is: half the sum of the differences, or their sum.
        factor: Factor of that sum.
        columns: Returns the columns that are needed, given the classes and the names of all columns.
        read: Returns amounts and scores of a batch without errors.
    """

    amount: str
    short: str
    score: str
    table: str
    column: str
    class_score: str
    change: str
    factor: float
    columns: Callable[[Classes, Sequence[str]], list[str]]
    read: Callable[[pa.RecordBatch, Classes], tuple[Floats, NDArray[np.float64]]]


def read_amounts(images: "Dataset", classes: Classes, measure: Measure, *, one_in: int) -> Amounts:
    """Read the amounts of all images, or of one in some, chosen by their ids alone."""
    names = images.schema.names
    columns = ["image_id", "sha256", "status", *measure.columns(classes, names)]
    ids: list[str] = []
    digests: list[str | None] = []
    positions, amounts, scores = [np.zeros(0, np.int64)], [np.zeros((0, len(classes)), np.float32)], [np.zeros(0)]
    first = 0
    for batch in images.to_batches(columns=columns):
        good = pc.equal(batch["status"], "ok").to_numpy(zero_copy_only=False)
        if one_in > 1:
            good &= np.array([zlib.crc32(name.encode()) % one_in == 0 for name in batch["image_id"].to_pylist()], bool)
        rows = batch.filter(pa.array(good))
        if rows.num_rows:
            some, score = measure.read(rows, classes)
            ids += rows["image_id"].to_pylist()
            digests += rows["sha256"].to_pylist()
            positions.append(first + np.flatnonzero(good))
            amounts.append(some)
            scores.append(score)
        first += batch.num_rows
    return Amounts(ids, digests, np.concatenate(positions), np.concatenate(amounts), np.concatenate(scores))


def _no_score(batch: pa.RecordBatch) -> NDArray[np.float64]:
    return np.full(batch.num_rows, np.nan)


def _mask_columns(classes: Classes, names: Sequence[str]) -> list[str]:
    return [f"px_{slug}" for slug in classes.slugs] + [name for name in ("tp", "gt", "pred") if name in names]


def _masks(batch: pa.RecordBatch, classes: Classes) -> tuple[Floats, NDArray[np.float64]]:
    """Return the share of each class in the pixels of a mask, and its mean IoU."""
    pixels = np.stack([batch[f"px_{slug}"].to_numpy().astype(np.float32) for slug in classes.slugs], axis=1)
    shares = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    return shares, image_mious(batch) if "tp" in batch.schema.names else _no_score(batch)


def _class_columns(classes: Classes, names: Sequence[str]) -> list[str]:
    return ["probabilities"]


def _probabilities(batch: pa.RecordBatch, classes: Classes) -> tuple[Floats, NDArray[np.float64]]:
    flat = batch["probabilities"].flatten().to_numpy().astype(np.float32)
    return flat.reshape(-1, len(classes)), _no_score(batch)


def _box_columns(classes: Classes, names: Sequence[str]) -> list[str]:
    return ["detections"] + [name for name in ("image_ap",) if name in names]


def _detections(batch: pa.RecordBatch, classes: Classes) -> tuple[Floats, NDArray[np.float64]]:
    """Return the sum of the scores of the detections of each class, and the average precision of the image."""
    boxes = batch["detections"].flatten()
    labels = pc.index_in(boxes.field("class"), pa.array(classes.names)).to_numpy(zero_copy_only=False).astype(int)
    sizes = pc.fill_null(pc.list_value_length(batch["detections"]), 0).to_numpy()
    rows = np.repeat(np.arange(batch.num_rows), sizes)
    sums = np.zeros((batch.num_rows, len(classes)), np.float32)
    np.add.at(sums, (rows, labels), boxes.field("score").to_numpy())
    if "image_ap" not in batch.schema.names:
        return sums, _no_score(batch)
    return sums, pc.fill_null(batch["image_ap"].cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)


MEASURES = {
    "segment": Measure(
        "share of the pixels",
        "share",
        "mIoU",
        "class_report",
        "iou",
        "IoU",
        "share of the pixels that changed class, at least",
        0.5,
        _mask_columns,
        _masks,
    ),
    "localize": Measure(
        "probability",
        "probability",
        "",
        "classification_report",
        "average_precision",
        "average precision",
        "sum of the changes of the probabilities",
        1.0,
        _class_columns,
        _probabilities,
    ),
    "detect": Measure(
        "sum of the scores of the detections",
        "sum",
        "average precision",
        "detection_report",
        "voc10",
        "AP VOC 2010",
        "sum of the changes of the scores",
        1.0,
        _box_columns,
        _detections,
    ),
}
