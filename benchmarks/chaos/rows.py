"""The rows of a run, read as a user reads them, and their comparison with those of an undisturbed run."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from pipeline import storage

COLUMNS = ["image_id", "status", "sha256", "error_class", "mask"]


class Row(NamedTuple):
    """What must be equal in the row of an image.

    Attributes:
        image_id: Id of the image.
        status: "ok" or "error".
        sha256: Hash of the image's file.
        error_class: Class of its error.
        mask: Hash of the PNG of its mask.
    """

    image_id: str
    status: str
    sha256: str | None
    error_class: str | None
    mask: str | None


class Difference(NamedTuple):
    """How rows differ from those of an undisturbed run.

    Attributes:
        lost: Ids without a row.
        doubled: Ids with more than one row, once for each row too many.
        different: Ids with a row that is not the undisturbed run's, unknown ids included.
    """

    lost: list[str]
    doubled: list[str]
    different: list[str]


def read_rows(run: str) -> list[Row]:
    """Read all files `RUN/images/*.parquet`, listed in the manifest or not: query engines take them all."""
    fs, _ = storage.filesystem(run)
    rows: list[Row] = []
    for file in storage.list_files(storage.join(run, "images")):
        with fs.open(file.path, "rb") as stream:
            rows += map(_row, pq.ParquetFile(stream).read(columns=COLUMNS).to_pylist())
    return rows


def compare(expected: Sequence[Row], found: Sequence[Row]) -> Difference:
    """Compare the rows of a run with those of the undisturbed one, in which each id is once."""
    known = {row.image_id: row for row in expected}
    counts = Counter(row.image_id for row in found)
    return Difference(
        lost=sorted(known.keys() - counts.keys()),
        doubled=sorted(image_id for image_id, n in counts.items() for _ in range(n - 1)),
        different=sorted({row.image_id for row in found if known.get(row.image_id) != row}),
    )


def _row(row: dict[str, Any]) -> Row:
    mask = row["mask"] and hashlib.sha256(row["mask"]["bytes"]).hexdigest()
    return Row(row["image_id"], row["status"], row["sha256"], row["error_class"], mask)
