"""The sink: described images of a shard go in, one Parquet file with exactly the plan's rows is written."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from pipeline import faults, parquet, storage
from pipeline.bulk.describe import Described
from pipeline.bulk.fetch import Failure
from pipeline.bulk.outcome import causes_of
from pipeline.bulk.schema import compression
from pipeline.bulk.shards import PARTS_FOLDER, part_name
from pipeline.bulk.table_input import row_uri

ROW_GROUP = 1000  # rows: looking up one image reads a few MB, and a scan still meets few groups

# What the driver learns of a shard: its number, its images, the errors among them and their causes, the milliseconds
# that the network and the description took in all, and the reason if it is left undone.
CAUSE = pa.struct(
    [
        ("stage", pa.string()),
        ("class", pa.string()),
        ("pattern", pa.string()),
        ("count", pa.int64()),
        ("example", pa.string()),
    ]
)
COUNTS = pa.schema(
    [
        ("shard", pa.int64()),
        ("images", pa.int64()),
        ("errors", pa.int64()),
        ("infer_ms", pa.float64()),
        ("describe_ms", pa.float64()),
        ("causes", pa.list_(CAUSE)),
        ("reason", pa.string()),
    ]
)


class ShardWriter:
    """Writes the files of a run's rows; a retry writes the same file again.

    Args:
        run: Folder of the run.
        schema: Schema of the table `images`.
    """

    def __init__(self, *, run: str, schema: pa.Schema):
        self._run = run
        self._schema = schema

    def write(self, shard: int, images: list[dict[str, Any]], described: Iterable[tuple[int, Described]]) -> pa.Table:
        """Write the rows of a shard.

        Args:
            shard: Number of the shard.
            images: Its rows of the plan.
            described: Each of its images once, with its position in the shard, in any order.

        Returns:
            A row with `COUNTS`.

        Raises:
            StoreFault: The store takes no file.
        """
        rows: dict[int, dict[str, Any]] = {}
        describe_ms = 0.0
        for i, one in described:
            rows[i] = self._row(images[i], one) | {"shard": shard}
            describe_ms += one.describe_ms
        if len(rows) != len(images):
            raise RuntimeError(f"{len(rows)} images are not shard {shard} of {len(images)} images")
        in_order = [rows[i] for i in range(len(images))]
        write_part(self._run, part_name(shard), pa.Table.from_pylist(in_order, schema=self._schema))
        counts = {
            "shard": shard,
            "images": len(in_order),
            "errors": sum(row["status"] == "error" for row in in_order),
            "infer_ms": sum(row["t_infer_ms"] or 0.0 for row in in_order),
            "describe_ms": describe_ms,
            "causes": causes_of(in_order),
        }
        return pa.Table.from_pylist([counts], schema=COUNTS)

    def _row(self, image: dict[str, Any], described: Described) -> dict[str, Any]:
        fetched = described.fetched
        if fetched.image_id != image["image_id"]:
            raise RuntimeError(f"the image {fetched.image_id} is not the plan's {image['image_id']}")
        row = dict.fromkeys(self._schema.names) | {
            "image_id": fetched.image_id,
            "uri": row_uri(storage.redact(image["uri"]), image["row"], image["bytes"]),
            "etag": image["etag"] or None,
            "width": fetched.width,
            "height": fetched.height,
            "sha256": fetched.sha256,
            "t_fetch_ms": fetched.fetch_ms,
            "t_decode_ms": fetched.decode_ms,
            "t_infer_ms": described.infer_ms,
        }
        if isinstance(described.columns, Failure):
            return row | {"status": "error"} | described.columns.columns
        return row | {"status": "ok"} | described.columns


def undone(shard: int, images: int, reason: str) -> pa.Table:
    """Return the row with `COUNTS` of a shard that is left undone."""
    counts = {"shard": shard, "images": images, "errors": 0, "infer_ms": 0.0, "describe_ms": 0.0, "reason": reason}
    return pa.Table.from_pylist([counts], schema=COUNTS)


def write_part(run: str, name: str, table: pa.Table) -> None:
    """Write rows as a file of a shard, atomically.

    Raises:
        StoreFault: The store takes no file.
    """
    url = storage.join(run, PARTS_FOLDER, name)
    with faults.store_faults(url):
        parquet.write_table(url, table, compression=compression(table.schema), row_group_size=ROW_GROUP)
