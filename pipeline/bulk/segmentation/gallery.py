"""The picture sheet of a segmentation run: a few of its images, fetched again, with their masks."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from pipeline import storage
from pipeline.bulk.results import open_images, spread, take
from pipeline.bulk.table_input import read_image_bytes
from pipeline.data.classes import Classes
from pipeline.data.images import decode_image, decode_mask, decode_raw_label, from_upright
from pipeline.report.mask_sheet import MaskPicture, draw_mask_sheet, thinned

ROWS = 8


def draw_gallery(run: str, files: Sequence[str], classes: Classes) -> bytes:
    """Draw the sheet of some segmented images, evenly spaced over the run; empty if there are none.

    Args:
        run: Folder of a run.
        files: Files of its rows below that folder, in order.
        classes: Classes of its masks and label maps.
    """
    images = open_images(run, files)
    columns = [name for name in ("image_id", "uri", "mask", "label_uri", "label_error") if name in images.schema.names]
    rows = take(run, files, spread(images, ROWS), columns)
    pictures = [picture for row in rows if (picture := _picture(row, classes)) is not None]
    return draw_mask_sheet(pictures, classes) if pictures else b""


def _picture(row: dict[str, Any], classes: Classes) -> MaskPicture | None:
    """Return the row as a picture on the stored pixels; None if the image has vanished since."""
    try:
        decoded = decode_image(read_image_bytes(row["uri"]))
        truth = _truth(row, classes)
    except Exception:  # an image that vanished must not spoil a finished run
        return None
    pixels, mask = from_upright(decoded.pixels, decoded.orientation), decode_mask(row["mask"]["bytes"])
    return MaskPicture(row["image_id"], thinned(pixels), thinned(mask), None if truth is None else thinned(truth))


def _truth(row: dict[str, Any], classes: Classes) -> NDArray | None:
    if not row.get("label_uri") or row.get("label_error"):
        return None
    return classes.index(decode_raw_label(storage.read_bytes(row["label_uri"])))
