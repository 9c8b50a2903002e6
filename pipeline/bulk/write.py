"""The sink: a predicted shard in, one Parquet file out, exactly the plan's rows."""

import io
import posixpath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from pipeline import storage
from pipeline.bulk.schema import compression
from pipeline.bulk.shards import IMAGES, part_name, shard_of
from pipeline.classes import Classes
from pipeline.images import ImageError, decode_raw_label, encode_mask
from pipeline.metrics import Confusion, confusion

ROW_GROUP = 1000  # rows: one look-up reads a few MB, and a scan still has few groups


class ShardWriter:
    """Turns predicted blocks into files. A retry writes the same file again.

    Args:
        run: folder of the run.
        plan: reference to the plan's table.
        schema: of `images`.
        classes: of the model and the labels.
        max_pixels: of a label map.
    """

    def __init__(self, *, run: str, plan: Any, schema: pa.Schema, classes: Classes, max_pixels: int):
        self._run = run
        self._plan = plan
        self._schema = schema
        self._classes = classes
        self._max_pixels = max_pixels

    def __call__(self, block: pa.Table) -> dict[str, list[int]]:
        """Write a block that is one shard; tells how many of its images failed."""
        shard = block["shard"][0].as_py()
        planned, _ = shard_of(ray.get(self._plan), shard)
        if block["image_id"].to_pylist() != [image["image_id"] for image in planned]:
            raise RuntimeError(f"block of {block.num_rows} rows is not shard {shard} of {len(planned)} images")
        rows = [self._row(p, image) for p, image in zip(block.to_pylist(), planned, strict=True)]
        table = pa.Table.from_pylist(rows, schema=self._schema)
        write_part(self._run, part_name(shard), table, self._schema)
        errors = sum(row["status"] == "error" for row in rows)
        return {"shard": [shard], "images": [len(rows)], "errors": [errors]}

    def _row(self, predicted: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
        row = {name: predicted.get(name) for name in self._schema.names}
        row["uri"] = storage.redact(image["uri"]) + ("" if image["row"] < 0 else f"#row={image['row']}")
        row["etag"] = image["etag"] or None
        if "label_uri" in self._schema.names:
            row["label_uri"] = image["label"] and storage.redact(image["label"])
        if predicted["error_stage"] is not None:
            return row | {"status": "error"}
        shape = (predicted["height"], predicted["width"])
        labels = np.frombuffer(predicted["labels"], predicted["label_dtype"]).reshape(shape)
        counts = np.bincount(labels.ravel(), minlength=len(self._classes))
        row |= {f"px_{slug}": int(n) for slug, n in zip(self._classes.slugs, counts, strict=True)}
        row["mask"] = {
            "bytes": encode_mask(labels, self._classes.palette),
            "path": posixpath.splitext(image["image_id"])[0] + ".png",
        }
        if image["label"] is not None:
            raw = predicted.get("raw_labels")
            before = None if raw is None else np.frombuffer(raw, labels.dtype).reshape(shape)
            row |= self._ground_truth(image["label"], labels, before)
        return row | {"status": "ok"}

    def _ground_truth(self, url: str, predicted: NDArray, before: NDArray | None) -> dict[str, Any]:
        """The counts against a label map, and of the mask before the CRF; a broken one costs the counts, not the
        mask."""
        truth = read_label(url, predicted.shape, self._classes, max_pixels=self._max_pixels)
        if isinstance(truth, str):
            return {"label_error": truth}
        columns = ground_truth_columns(count(truth, predicted, self._classes))
        if before is not None:
            raw = ground_truth_columns(count(truth, before, self._classes))
            columns |= {f"{name}_raw": raw[name] for name in ("tp", "pred", "confusion")}
        return columns


def write_part(run: str, name: str, table: pa.Table, schema: pa.Schema) -> None:
    """Write rows as a file of `images`, atomically."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=compression(schema), row_group_size=ROW_GROUP)
    storage.write_bytes(storage.join(run, IMAGES, name), buffer.getvalue())


def read_label(url: str, shape: tuple[int, ...], classes: Classes, *, max_pixels: int) -> NDArray | str:
    """The class indices and ignore index of the label map at a URL, or why there are none.

    Args:
        url: of the label map, drawn on the stored pixels.
        shape: (height, width) that it must have, the image's.
        classes: of the label map.
        max_pixels: larger label maps are refused.
    """
    try:
        raw = decode_raw_label(storage.read_bytes(url), max_pixels=max_pixels)
    except ImageError as error:
        return str(error)
    except Exception as error:  # whatever a store raises belongs to this label
        return storage.explain(error)
    if raw.shape != shape:
        sizes = ["x".join(map(str, size[::-1])) for size in (raw.shape, shape)]
        return f"the label map is {sizes[0]}, the image {sizes[1]}"
    return classes.index(raw)


def count(truth: NDArray, predicted: NDArray, classes: Classes) -> Confusion:
    """The confusion of a mask with a label map, both [height, width] class indices."""
    return confusion(truth, predicted, num_classes=len(classes), ignore_index=classes.ignore_index)


def ground_truth_columns(counts: Confusion) -> dict[str, Any]:
    """The columns of ground truth of an image; the confusion matrix without its zeros."""
    matrix = counts.matrix
    nonzero = zip(*np.nonzero(matrix), strict=True)
    return {
        "tp": np.diag(matrix).tolist(),
        "gt": matrix.sum(axis=1).tolist(),
        "pred": matrix.sum(axis=0).tolist(),
        "ignored_px": counts.ignored,
        "invalid_label_px": counts.invalid_label,
        "confusion": [{"gt": int(g), "pred": int(p), "px": int(matrix[g, p])} for g, p in nonzero],
    }
