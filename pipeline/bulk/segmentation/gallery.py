"""The pictures of a run's sheet: a few of its rows, fetched again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import storage
from pipeline.bulk.listing import read_rows
from pipeline.bulk.results import open_images, take
from pipeline.data.classes import Classes
from pipeline.data.images import decode_image, decode_mask, decode_raw_label, from_upright
from pipeline.report.mask_sheet import Picture, draw_sheet

ROWS = 8


def draw_gallery(run: str, files: Sequence[str], classes: Classes) -> bytes:
    """The sheet of some good rows, evenly spaced over the run; empty where there is none.

    Args:
        run: folder of a run.
        files: of its rows, in order.
        classes: of its masks and labels.
    """
    images = open_images(run, files)
    good = np.flatnonzero(pc.equal(images.to_table(columns=["status"])["status"], "ok"))
    if len(good) == 0:
        return b""
    chosen = sorted({int(good[round(i)]) for i in np.linspace(0, len(good) - 1, min(ROWS, len(good)))})
    columns = [name for name in ("image_id", "uri", "mask", "label_uri", "label_error") if name in images.schema.names]
    rows = take(run, files, chosen, columns)
    pictures = [picture for row in rows if (picture := _picture(row, classes)) is not None]
    return draw_sheet(pictures, classes) if pictures else b""


def _picture(row: dict[str, Any], classes: Classes) -> Picture | None:
    """The row as a picture on the stored pixels; None where the image has gone since."""
    try:
        decoded = decode_image(image_bytes(row["uri"]))
        truth = _truth(row, classes)
    except Exception:  # an image that vanished must not spoil a finished run
        return None
    pixels = np.ascontiguousarray(from_upright(decoded.pixels, decoded.orientation))
    return Picture(row["image_id"], pixels, decode_mask(row["mask"]["bytes"]), truth)


def image_bytes(uri: str) -> bytes:
    """The encoded image of a row: a file's, or a row's of a Parquet table."""
    file, _, row = uri.rpartition("#row=")
    if not file:
        return storage.read_bytes(uri)
    data = read_rows(file, [int(row)])[int(row)]
    return data or b""


def _truth(row: dict[str, Any], classes: Classes) -> NDArray | None:
    if not row.get("label_uri") or row.get("label_error"):
        return None
    return classes.index(decode_raw_label(storage.read_bytes(row["label_uri"])))
