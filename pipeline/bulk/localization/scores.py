"""Maps against boxes and foreground masks, image by image, as columns that add up.

Maps are compared in the frame of the network's input with the conventions of `metrics.localization`, independent of
the run's own normalisation and boxes.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pipeline import faults, storage
from pipeline.bulk.localization.truth import ImageTruth
from pipeline.cam import activation
from pipeline.data.images import decode_raw_label
from pipeline.metrics.localization import best_ious, box_coverage, centre_ious, pixel_hits, resized_box, thresholds

IGNORED = 255  # value of ignored pixels in a foreground mask
METHODS = ("largest", "all", "centre")  # boxes of the map's largest region, of all its regions, at the image's centre

SCORED = pa.struct(
    [
        ("class", pa.string()),
        ("rank", pa.int32()),  # rank of the class among the classifier's scores, from 0
        *((f"iou_{method}", pa.list_(pa.float32())) for method in METHODS),  # best IoU at each threshold
        ("coverage", pa.float32()),  # share of the boxes at which the map is at least 20% of its range
        ("foreground_px", pa.list_(pa.int32())),  # histogram of the map over foreground pixels
        ("background_px", pa.list_(pa.int32())),
        ("error", pa.string()),
    ]
)


def score_map(
    raw: NDArray[np.float32],
    k: int,
    truth: ImageTruth,
    *,
    rank: int,
    name: str,
    size: tuple[int, int],
    frame: tuple[int, int],
    step: float,
) -> dict[str, Any]:
    """Return the fields of `SCORED` for a class that an image is known to show.

    Args:
        raw: Raw map of the class [h, w], on the stored pixels.
        k: Index of the class.
        truth: Ground truth of the image.
        rank: Rank of the class among the classifier's scores, from 0.
        name: Name of the class.
        size: Height and width of the stored pixels.
        frame: Height and width at which boxes and pixels are compared.
        step: Distance between the thresholds.
    """
    heatmap = activation.heatmaps(raw[None], frame, how="min_max", interpolation="bicubic")[0].clip(0, 1)
    row: dict[str, Any] = {"class": name, "rank": rank}
    steps = thresholds(step)
    boxes = np.array([box[1:] for box in truth.boxes if box[0] == k]).reshape(-1, 4)
    if len(boxes):
        height, width = frame
        fitted = resized_box(boxes, size[::-1], (width, height)).clip(0, [width - 1, height - 1] * 2)
        row["iou_largest"] = best_ious(heatmap, fitted, steps=steps, regions="largest")
        row["iou_all"] = best_ious(heatmap, fitted, steps=steps, regions="all")
        row["coverage"] = box_coverage(heatmap, fitted)
        row["iou_centre"] = centre_ious(width, height, fitted, steps=steps)
    if truth.foreground:
        try:
            mask = decode_raw_label(storage.read_bytes(truth.foreground)).astype(np.int32)
        except Exception as error:  # whatever it is, it belongs to this foreground mask
            return row | {"error": faults.explain(error)}
        fitted_mask = np.asarray(Image.fromarray(mask).resize(frame[::-1], Image.Resampling.NEAREST))
        known = np.where(fitted_mask == IGNORED, IGNORED, (fitted_mask > 0).astype(np.int32))
        hits = pixel_hits(heatmap, known, steps=steps)
        row |= {"foreground_px": hits.foreground, "background_px": hits.background}
    return row
