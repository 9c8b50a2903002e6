"""A folder that `datasets.load_dataset(FOLDER)` reads: `data/train-00000.parquet` …, with the features in the schema.

Columns: image_id, uri, width, height; `mask` and the `classes` in it, or `objects` (bbox as left, top, width, height;
category; score); and with `--copy-images` the `image`.
"""

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.bulk.schema import PICTURE
from pipeline.export.picture import Picture
from pipeline.export.writer import Export

BYTES = 256 << 20  # of masks and images in a file
ROWS = 100_000  # in a file


def _value(kind: str) -> dict[str, str]:
    return {"dtype": kind, "_type": "Value"}


class Writer:
    """See `writer.FormatWriter`."""

    def __init__(self, export: Export):
        self._export = export
        category = {"names": list(export.classes.names), "_type": "ClassLabel"}
        fields: dict[str, tuple[pa.DataType, Any]] = {
            "image_id": (pa.string(), _value("string")),
            "uri": (pa.string(), _value("string")),
            "width": (pa.int32(), _value("int32")),
            "height": (pa.int32(), _value("int32")),
        }
        if export.config.copy_images:
            fields["image"] = (PICTURE, {"_type": "Image"})
        if export.has_masks:
            fields["mask"] = (PICTURE, {"_type": "Image"})
            fields["classes"] = (pa.list_(pa.int64()), {"feature": category, "_type": "List"})
        else:
            box = {"bbox": pa.list_(pa.float32()), "category": pa.int64(), "score": pa.float32()}
            features = {
                "bbox": {"feature": _value("float32"), "_type": "List"},
                "category": category,
                "score": _value("float32"),
            }
            fields["objects"] = (pa.list_(pa.struct(list(box.items()))), {"feature": features, "_type": "List"})
        about = {"info": {"features": {name: feature for name, (_, feature) in fields.items()}}}
        self._schema = pa.schema(
            [(name, kind) for name, (kind, _) in fields.items()], metadata={"huggingface": json.dumps(about)}
        )
        self._rows: list[dict[str, Any]] = []
        self._bytes = self._files = 0

    def encode(self, picture: Picture) -> dict[str, Any]:
        """Return the row of an image."""
        row: dict[str, Any] = {
            "image_id": picture.image_id,
            "uri": picture.uri,
            "width": picture.width,
            "height": picture.height,
        }
        if self._export.config.copy_images:
            row["image"] = {"bytes": picture.image(), "path": picture.file}
        if self._export.has_masks:
            row["mask"] = {"bytes": picture.png, "path": f"{picture.stem}.png"}
            row["classes"] = np.unique(picture.labels).tolist()
        else:
            names = self._export.classes.names
            row["objects"] = [
                {
                    "bbox": [box["xmin"], box["ymin"], box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]],
                    "category": names.index(box["class"]),
                    "score": box["score"],
                }
                for box in self._export.kept(picture)
            ]
        return row

    def add(self, picture: Picture, encoded: dict[str, Any]) -> None:
        """Take a row, and write a file of them when it is full."""
        self._rows.append(encoded)
        self._bytes += sum(len(encoded[name]["bytes"]) for name in ("image", "mask") if name in encoded)
        if self._bytes >= BYTES or len(self._rows) >= ROWS:
            self._store()

    def _store(self) -> None:
        buffer = io.BytesIO()
        table = pa.Table.from_pylist(self._rows, schema=self._schema)
        pq.write_table(table, buffer, row_group_size=100)
        self._export.write(f"data/train-{self._files:05}.parquet", buffer.getvalue())
        self._files += 1
        self._rows, self._bytes = [], 0

    def finish(self) -> None:
        """Write the last rows and the card of the data set."""
        if self._rows:
            self._store()
        task = "image-segmentation" if self._export.has_masks else "object-detection"
        lines = [
            "---",
            "configs:",
            "- config_name: default",
            "  data_files: data/*.parquet",
            "task_categories:",
            f"- {task}",
            "---",
            "",
            f"Predictions of the segpipe run `{self._export.name}`.",
            "",
            *(f"{k}. {name}" for k, name in enumerate(self._export.classes.names)),
        ]
        self._export.write("README.md", ("\n".join(lines) + "\n").encode())

    def close(self) -> None:
        """Do nothing."""
