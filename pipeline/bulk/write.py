"""The sink: a predicted shard in, one Parquet file out, exactly the plan's rows."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from pipeline import storage
from pipeline.bulk.fetch import Failure
from pipeline.bulk.kind import Kind
from pipeline.bulk.schema import compression
from pipeline.bulk.shards import IMAGES, part_name, shard_of

ROW_GROUP = 1000  # rows: one look-up reads a few MB, and a scan still has few groups


class ShardWriter:
    """Turns predicted blocks into files. A retry writes the same file again.

    Args:
        kind: of the run.
        run: its folder.
        plan: reference to the plan's table.
        schema: of `images`.
    """

    def __init__(self, kind: Kind, *, run: str, plan: Any, schema: pa.Schema):
        self._kind = kind
        self._run = run
        self._plan = plan
        self._schema = schema

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
        if predicted["error_stage"] is not None:
            return row | {"status": "error"}
        try:
            return row | self._kind.row(predicted, image["truth"]) | {"status": "ok"}
        except Exception as error:  # whatever it is, it belongs to this image
            failure = Failure.of("describe", error)
            told = {"error_class": failure.error_class, "error_message": failure.message}
            return row | {"status": "error", "error_stage": failure.stage} | told


def write_part(run: str, name: str, table: pa.Table, schema: pa.Schema) -> None:
    """Write rows as a file of `images`, atomically."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=compression(schema), row_group_size=ROW_GROUP)
    storage.write_bytes(storage.join(run, IMAGES, name), buffer.getvalue())
