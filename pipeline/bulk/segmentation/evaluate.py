"""mIoU tables of a finished run against label maps, from its stored masks: the network is not needed."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import pyarrow as pa

from pipeline import storage
from pipeline.bulk.archives.archive import truth_key
from pipeline.bulk.finish import store_tables
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.results import RowGroup, open_images, read_group, row_groups
from pipeline.bulk.schema import metadata_of
from pipeline.bulk.segmentation.config import EvaluateConfig
from pipeline.bulk.segmentation.ground_truth import count, read_label
from pipeline.bulk.segmentation.tables import ImageCounts, report_tables, stage_of
from pipeline.data import datasets
from pipeline.data.classes import Classes, classes_like
from pipeline.data.images import MAX_PIXELS, decode_mask
from pipeline.data.naming import proposal
from pipeline.errors import UserError
from pipeline.metrics.segmentation import Confusion

THREADS = 8


class GroupCount(NamedTuple):
    """The masks of a row group against their label maps.

    Attributes:
        counts: Their summed confusion.
        scored: Number of images that it counts.
        failed: Number of label maps that could not be used.
    """

    counts: Confusion
    scored: int
    failed: int


def evaluate(config: EvaluateConfig) -> dict[str, pa.Table]:
    """Compare the masks of a run with label maps.

    Returns:
        The tables of `report_tables`.

    Raises:
        UserError: The run is not finished, the labels belong to none of its images, or the classes do not fit.
    """
    files = [file["path"] for file in read_manifest(config.run)["files"]]
    images = open_images(config.run, files)
    about = metadata_of(images.schema)
    # Masks of a localization run show a background beside the model's classes.
    classes = classes_like(config.classes, Classes(**about.get("mask_classes", about["classes"])), owner="run")
    label_files = datasets.files_by_key(config.labels)
    by_key = datasets.by_image(label_files, config)
    rows = images.to_table(columns=["image_id", "status"]).to_pylist()
    labels = [by_key.get(truth_key(row["image_id"], by_key)) for row in rows]
    if not any(labels):
        keys = [truth_key(row["image_id"], by_key) for row in rows]
        advice = proposal(keys, label_files, names=config)
        raise UserError(
            f"{storage.redact(config.labels)} has no label map of an image of {storage.redact(config.run)}{advice}"
        )
    if config.output:
        storage.check_writable(config.output)
    total = _count(config.run, files, labels, classes)
    errors = sum(row["status"] == "error" for row in rows)
    image_counts = ImageCounts(images=len(rows), errors=errors, scored_images=total.scored, label_errors=total.failed)
    tables = report_tables({stage_of(images): total.counts}, image_counts, classes)
    if config.output:
        store_tables(config.output, tables)
    return tables


def _count(run: str, files: list[str], labels: list[str | None], classes: Classes) -> GroupCount:
    """Count all masks of a run, in tasks of a row group each."""
    from pipeline import cluster

    calls = []
    first = 0
    for group in row_groups(run, files):
        calls.append((run, group, labels[first : first + group.rows], classes))
        first += group.rows
    cluster.connect()
    found = list(cluster.map_tasks(count_group, calls, sizes=[group.rows for _, group, _, _ in calls], title="scoring"))
    counts = sum((group.counts for group in found), Confusion.zeros(len(classes)))
    return GroupCount(counts, sum(group.scored for group in found), sum(group.failed for group in found))


def count_group(run: str, group: RowGroup, labels: list[str | None], classes: Classes) -> GroupCount:
    """Count the masks of a row group against their label maps, given as URLs in the order of the rows."""
    masks = read_group(run, group, ["mask"])
    pairs = [
        (row["mask"]["bytes"], label)
        for row, label in zip(masks, labels, strict=True)
        if row["mask"] is not None and label is not None
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(partial(_compare, classes=classes), pairs))
    counted = [result for result in results if isinstance(result, Confusion)]
    return GroupCount(sum(counted, Confusion.zeros(len(classes))), len(counted), len(results) - len(counted))


def _compare(pair: tuple[bytes, str], classes: Classes) -> Confusion | str:
    encoded, label = pair
    mask = decode_mask(encoded)
    truth = read_label(label, mask.shape, classes, max_pixels=MAX_PIXELS)
    return truth if isinstance(truth, str) else count(truth, mask, classes)
