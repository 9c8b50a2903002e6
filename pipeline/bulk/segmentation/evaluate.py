"""mIoU tables of a finished run against label maps, from its stored masks: no network needed."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import ray
import ray.data
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from pipeline import cluster, storage
from pipeline.bulk.finish import store_tables
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.results import RowGroup, open_images, read_group, row_groups
from pipeline.bulk.schema import metadata_of
from pipeline.bulk.segmentation.ground_truth import count, read_label
from pipeline.bulk.segmentation.tables import Totals, report_tables, stage_of
from pipeline.data import datasets
from pipeline.data.classes import Classes, classes_like
from pipeline.data.images import MAX_PIXELS, decode_mask
from pipeline.errors import UserError
from pipeline.metrics.segmentation import Confusion
from pipeline.storage import Url

THREADS = 8


class EvaluateConfig(BaseModel):
    """The options of `jobs/evaluate.py`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Url = Field(description="folder of a finished run: OUTPUT/run_id=…")
    labels: Url = Field(description="folder of label maps, paired with the images by name")
    classes: Url | None = Field(default=None, description="class file of the labels, if not the one of the run")
    output: Url | None = Field(default=None, description="also write the tables below this folder")


def evaluate(config: EvaluateConfig) -> dict[str, pa.Table]:
    """Compare the masks of a run with label maps.

    Returns:
        The tables of `report_tables`.

    Raises:
        UserError: no finished run, labels of none of its images, or classes that do not fit.
    """
    files = [file["path"] for file in read_manifest(config.run)["files"]]
    images = open_images(config.run, files)
    about = metadata_of(images.schema)
    # Masks of a localization run show a background beside the model's classes.
    classes = classes_like(config.classes, Classes(**about.get("mask_classes", about["classes"])), of="run")
    by_key = datasets.files_by_key(config.labels)
    rows = images.to_table(columns=["image_id", "status"]).to_pylist()
    labels = [by_key.get(datasets.without_image_suffix(row["image_id"])) for row in rows]
    if not any(labels):
        raise UserError(f"{storage.redact(config.labels)} has no label map of an image of {storage.redact(config.run)}")
    if config.output:
        storage.check_writable(config.output)
    cluster.connect()
    counts, scored, failed = _count(config.run, files, labels, classes)
    errors = sum(row["status"] == "error" for row in rows)
    totals = Totals(images=len(rows), errors=errors, scored_images=scored, label_errors=failed)
    tables = report_tables({stage_of(images): counts}, totals, classes)
    if config.output:
        store_tables(config.output, tables)
    return tables


def _count(run: str, files: list[str], labels: list[str | None], classes: Classes) -> tuple[Confusion, int, int]:
    """The summed confusion, how many images it counts, and how many label maps could not be used."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    work: list[dict[str, Any]] = []
    first = 0
    for group in row_groups(run, files):
        work.append({"group": json.dumps(group), "labels": json.dumps(labels[first : first + group.rows])})
        first += group.rows
    total, scored, failed = Confusion.zeros(len(classes)), 0, 0
    counted = ray.data.from_items(work, override_num_blocks=len(work)).map(GroupCounter(run, classes))
    with tqdm(total=len(labels), unit="images", leave=False, disable=not sys.stderr.isatty()) as bar:
        for row in counted.iter_rows():
            matrix = np.asarray(row["matrix"], np.int64).reshape(len(classes), len(classes))
            total += Confusion(matrix, row["ignored"], row["invalid_label"], row["invalid_prediction"])
            scored += row["scored"]
            failed += row["failed"]
            bar.update(row["rows"])
    return total, scored, failed


class GroupCounter:
    """Counts a row group's masks against their label maps."""

    def __init__(self, run: str, classes: Classes):
        self._run = run
        self._classes = classes

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        masks = read_group(self._run, RowGroup(*json.loads(row["group"])), ["mask"])
        pairs = [
            (mask["mask"]["bytes"], label)
            for mask, label in zip(masks, json.loads(row["labels"]), strict=True)
            if mask["mask"] is not None and label is not None
        ]
        with ThreadPoolExecutor(THREADS) as pool:
            results = list(pool.map(self._compare, pairs))
        counts = sum((r for r in results if isinstance(r, Confusion)), Confusion.zeros(len(self._classes)))
        failed = sum(isinstance(r, str) for r in results)
        return {
            "matrix": counts.matrix.ravel().tolist(),
            "ignored": counts.ignored,
            "invalid_label": counts.invalid_label,
            "invalid_prediction": counts.invalid_prediction,
            "rows": len(masks),
            "scored": len(results) - failed,
            "failed": failed,
        }

    def _compare(self, pair: tuple[bytes, str]) -> Confusion | str:
        mask, label = pair
        predicted = decode_mask(mask)
        truth = read_label(label, predicted.shape, self._classes, max_pixels=MAX_PIXELS)
        return truth if isinstance(truth, str) else count(truth, predicted, self._classes)
