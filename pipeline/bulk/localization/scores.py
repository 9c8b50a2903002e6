"""Maps against boxes and foreground masks, image by image, as columns that add up.

Everything happens in the frame of the network's input, with the evaluator's conventions (see `localization`), whatever
normalisation and boxes the run itself was told.
"""

import json
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pipeline import storage
from pipeline.cam import activation
from pipeline.data.images import decode_raw_label
from pipeline.metrics.localization import best_ious, centre_ious, pixel_hits, resized_box, thresholds

IGNORED = 255  # in a foreground mask
METHODS = ("largest", "all", "centre")  # whose boxes: the map's largest region, all its regions, the image's centre

SCORED = pa.struct(
    [
        ("class", pa.string()),
        ("rank", pa.int32()),  # of the class among the classifier's scores, from 0
        *((f"iou_{method}", pa.list_(pa.float32())) for method in METHODS),  # the best at each threshold
        ("foreground_px", pa.list_(pa.int32())),  # histograms of the map
        ("background_px", pa.list_(pa.int32())),
        ("error", pa.string()),
    ]
)


class Truth(NamedTuple):
    """What is known of an image: classes, boxes (class, left, top, right, bottom, inclusive), a mask's URL."""

    classes: list[int]
    boxes: list[tuple[float, ...]]
    foreground: str | None

    @staticmethod
    def read(text: str | None) -> "Truth":
        """From the plan, where it is JSON."""
        return Truth([], [], None) if text is None else Truth(**json.loads(text))


def score_map(
    raw: NDArray[np.float32],
    k: int,
    truth: Truth,
    *,
    rank: int,
    name: str,
    size: tuple[int, int],
    frame: tuple[int, int],
    step: float,
) -> dict[str, Any]:
    """The fields of `SCORED` for a class that an image is known to show.

    Args:
        raw: the class's map [h, w], on the stored pixels.
        k: its index.
        truth: of the image.
        rank: of the class among the scores.
        name: of the class.
        size: height, width of the stored pixels.
        frame: height, width in which boxes and pixels are compared.
        step: of the thresholds.
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
        row["iou_centre"] = centre_ious(width, height, fitted, steps=steps)
    if truth.foreground:
        try:
            mask = decode_raw_label(storage.read_bytes(truth.foreground)).astype(np.int32)
        except Exception as error:  # whatever it is, it belongs to this mask
            return row | {"error": storage.explain(error)}
        fitted_mask = np.asarray(Image.fromarray(mask).resize(frame[::-1], Image.Resampling.NEAREST))
        known = np.where(fitted_mask == IGNORED, IGNORED, (fitted_mask > 0).astype(np.int32))
        hits = pixel_hits(heatmap, known, steps=steps, ignore=IGNORED)
        row |= {"foreground_px": hits.foreground, "background_px": hits.background}
    return row
