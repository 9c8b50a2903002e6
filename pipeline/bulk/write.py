"""The sink: a predicted shard goes in, one Parquet file with exactly the plan's rows is written."""

from typing import Any

import pyarrow as pa

from pipeline import parquet, storage
from pipeline.bulk.fetch import Failure
from pipeline.bulk.kind import RunKind
from pipeline.bulk.plan import PlanReader
from pipeline.bulk.schema import compression
from pipeline.bulk.shards import IMAGES, part_name
from pipeline.bulk.table_input import row_uri

ROW_GROUP = 1000  # rows: looking up one image reads a few MB, and a scan still meets few groups


class ShardWriter:
    """Turns predicted blocks into files; a retry writes the same file again.

    Args:
        kind: Kind of the run.
        run: Folder of the run.
        plan: Plan of the run.
        schema: Schema of the table `images`.
    """

    def __init__(self, kind: RunKind, *, run: str, plan: PlanReader, schema: pa.Schema):
        self._kind = kind
        self._run = run
        self._plan = plan
        self._schema = schema

    def __call__(self, block: pa.Table) -> dict[str, list[int]]:
        """Write a block that is one shard; return its number, its images and how many of them failed."""
        shard = block["shard"][0].as_py()
        planned = self._plan.shard(shard).images
        if block["image_id"].to_pylist() != [image["image_id"] for image in planned]:
            raise RuntimeError(f"block of {block.num_rows} rows is not shard {shard} of {len(planned)} images")
        rows = [self._row(p, image) for p, image in zip(block.to_pylist(), planned, strict=True)]
        write_part(self._run, part_name(shard), pa.Table.from_pylist(rows, schema=self._schema))
        errors = sum(row["status"] == "error" for row in rows)
        return {"shard": [shard], "images": [len(rows)], "errors": [errors]}

    def _row(self, predicted: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
        row = {name: predicted.get(name) for name in self._schema.names}
        row["uri"] = row_uri(storage.redact(image["uri"]), image["row"], image["bytes"])
        row["etag"] = image["etag"] or None
        if predicted["error_stage"] is not None:
            return row | {"status": "error"}
        try:
            return row | self._kind.row(predicted, image["truth"]) | {"status": "ok"}
        except Exception as error:  # whatever it is, it belongs to this image
            return row | {"status": "error"} | Failure.of("describe", error).columns


def write_part(run: str, name: str, table: pa.Table) -> None:
    """Write rows as a file of `images`, atomically."""
    url = storage.join(run, IMAGES, name)
    parquet.write_table(url, table, compression=compression(table.schema), row_group_size=ROW_GROUP)
