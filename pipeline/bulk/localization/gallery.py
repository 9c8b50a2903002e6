"""The picture sheet of a localization run: best and worst images if boxes are known, otherwise some of all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.bulk.localization.truth import ImageTruth
from pipeline.bulk.plan import PLAN
from pipeline.bulk.results import spread, take
from pipeline.bulk.table_input import read_image_bytes
from pipeline.cam import activation
from pipeline.data.images import decode_heatmap, decode_image, from_upright
from pipeline.report.map_sheet import MapPicture, draw_map_sheet
from pipeline.report.mask_sheet import thinned, thinning

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

EACH = 4  # pictures of the best and of the worst images; twice as many where no boxes are known


def draw_gallery(run: str, files: Sequence[str], images: "Dataset", *, threshold: int | None) -> bytes:
    """Draw the sheet; empty if no image was localized.

    Args:
        run: Folder of a run.
        files: Files of its rows below that folder, in order.
        images: The rows.
        threshold: Index of the threshold whose boxes decide the best and worst images; None if no boxes are known.
    """
    if threshold is not None:
        ious = _ious(images, threshold)
        ranked = np.flatnonzero(~np.isnan(ious))[np.argsort(-ious[~np.isnan(ious)], kind="stable")]
        chosen = list(dict.fromkeys([*ranked[:EACH].tolist(), *ranked[-EACH:].tolist()]))
    else:
        chosen = spread(images, 2 * EACH)
    rows = dict(zip(sorted(chosen), take(run, files, sorted(chosen), ["image_id", "uri", "classes"]), strict=True))
    planned = dict(zip(sorted(chosen), take(run, [PLAN], sorted(chosen), ["truth"]), strict=True))
    pictures = []
    for position in chosen:
        truth = ImageTruth.from_json(planned[position]["truth"])
        note = "" if threshold is None else f"   IoU {ious[position]:.2f}"
        picture = _picture(rows[position], truth, note)
        pictures += [picture] if picture else []
    return draw_map_sheet(pictures) if pictures else b""


def _ious(images: "Dataset", threshold: int) -> NDArray[np.float64]:
    """Return the IoU of the largest box of each row's first known class at a threshold; NaN if there is none."""
    rows = images.to_table(columns=["scored"])["scored"].to_pylist()
    best = [next((s["iou_largest"] for s in row or [] if s["iou_largest"] is not None), None) for row in rows]
    return np.array([np.nan if ious is None else ious[threshold] for ious in best])


def _picture(row: dict[str, Any], truth: ImageTruth, note: str) -> MapPicture | None:
    """Return the row as a picture on the stored pixels; None if the image has vanished since."""
    try:
        decoded = decode_image(read_image_bytes(row["uri"]))
    except Exception:  # an image that vanished must not spoil a finished run
        return None
    pixels = from_upright(decoded.pixels, decoded.orientation)
    step = thinning(pixels)
    title, heatmap, boxes = f"{row['image_id']}: nothing found{note}", None, []
    if row["classes"]:
        first = row["classes"][0]
        missed = "" if first["found"] else " (not found)"
        title = f"{row['image_id']}: {first['class']} {first['probability']:.0%}{missed}{note}"
        boxes = [list(box.values()) for entry in row["classes"] for box in entry["boxes"]]
        if "heatmap" in first:
            raw = decode_heatmap(first["heatmap"]["bytes"], first["scale"], first["offset"])
            upright = activation.heatmaps(raw[None], decoded.pixels.shape[:2])[0]
            heatmap = from_upright(upright, decoded.orientation)[::step, ::step]
    known = [[x / step for x in box[1:]] for box in truth.boxes]
    return MapPicture(title, thinned(pixels), heatmap, [[x / step for x in box] for box in boxes], known)
