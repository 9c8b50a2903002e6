"""Finished runs with drawn masks or boxes, for exports."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pipeline.bulk.plan import MANIFEST
from pipeline.bulk.schema import PICTURE, results_schema
from pipeline.data.classes import Classes
from pipeline.data.images import encode_mask

CLASSES = Classes(names=("road", "car", "sky & <co>"), colours=((128, 64, 128), (0, 0, 142), (70, 130, 180)))
BOX = pa.struct(
    [("class", pa.string()), ("score", pa.float32()), *((n, pa.float32()) for n in ("xmin", "ymin", "xmax", "ymax"))]
)


def hole_and_island() -> NDArray[np.int32]:
    """A label map: a car with a hole, an island of one pixel, one that touches by a corner; and a strip of sky."""
    labels = np.zeros((11, 17), np.int32)
    labels[2:8, 3:10] = 1
    labels[4:6, 5:7] = 0  # the hole
    labels[4, 8] = 2  # a hole with another class
    labels[9, 15] = 1  # the island
    labels[8, 10] = 1  # touches the car by a corner
    labels[0] = 2
    return labels


def ragged(seed: int, size: tuple[int, int] = (40, 57)) -> NDArray[np.int32]:
    """A random label map: many regions with holes that touch by corners."""
    return np.random.default_rng(seed).integers(0, 3, size).astype(np.int32)


def write_run(folder: Path, masks: dict[str, NDArray[np.int32]], classes: Classes = CLASSES, *, groups: int = 2) -> str:
    """Write a finished segmentation run, with an image that failed, and its images."""
    rows: list[dict[str, Any]] = []
    for i, (image_id, labels) in enumerate(masks.items()):
        uri = folder / "images" / f"{i}.jpg"
        uri.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*labels.shape, 3), i, np.uint8)).save(uri)
        mask = {"bytes": encode_mask(labels, classes.palette), "path": "mask.png"}
        counts = {f"px_{slug}": int((labels == k).sum()) for k, slug in enumerate(classes.slugs)}
        size = {"width": labels.shape[1], "height": labels.shape[0]}
        rows.append({"image_id": image_id, "uri": str(uri), "status": "ok", "mask": mask, "shard": 0} | counts | size)
    own = [pa.field("mask", PICTURE), *(pa.field(f"px_{slug}", pa.int32()) for slug in classes.slugs)]
    return _store(folder, rows, own, ["mask"], classes, groups)


def write_detections(folder: Path, boxes: dict[str, list[dict[str, Any]]], classes: Classes = CLASSES) -> str:
    """Write a finished detection run over images of 20 x 10 pixels."""
    rows = [
        {"image_id": image_id, "uri": f"/photos/{image_id}", "status": "ok", "detections": found, "shard": 0}
        | {"width": 20, "height": 10}
        for image_id, found in boxes.items()
    ]
    return _store(folder, rows, [pa.field("detections", pa.list_(BOX))], [], classes, 2)


def _store(
    folder: Path, rows: list[dict], own: list[pa.Field], pictures: list[str], classes: Classes, groups: int
) -> str:
    rows.append({"image_id": "broken.jpg", "uri": "/broken.jpg", "status": "error", "shard": 0})
    metadata = {"classes": classes.model_dump(mode="json")}
    table = pa.Table.from_pylist(rows, schema=results_schema(own, pictures=pictures, metadata=metadata))
    run = folder / "run_id=test"
    (run / "images").mkdir(parents=True)
    pq.write_table(table, run / "images" / "part-0.parquet", row_group_size=max(1, len(rows) // groups))
    (run / MANIFEST).write_text(json.dumps({"files": [{"path": "images/part-0.parquet"}]}))
    return str(run)
