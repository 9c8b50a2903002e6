"""The picture sheet of a detection run: best and worst images if true boxes are known, otherwise some of all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.bulk.detection.comparison import CORNERS
from pipeline.bulk.results import spread, take
from pipeline.bulk.table_input import read_image_bytes
from pipeline.data.classes import Classes
from pipeline.data.images import decode_image, from_upright
from pipeline.report.box_sheet import BoxPicture, Colour, LabelledBox, draw_box_sheet
from pipeline.report.mask_sheet import thinned, thinning

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

EACH = 4  # pictures of the best and of the worst images; twice as many where no boxes are known
MOST_BOXES = 20  # detections drawn in an image whose true boxes are not known
TRUTH, RIGHT, WRONG, IGNORED = (40, 120, 255), (0, 160, 0), (230, 30, 30), (128, 128, 128)


def draw_gallery(
    run: str, files: Sequence[str], images: "Dataset", classes: Classes, *, thresholds: dict[str, float] | None
) -> bytes:
    """Draw the sheet; empty if no image was computed.

    Args:
        run: Folder of a run.
        files: Files of its rows below that folder, in order.
        images: The rows.
        classes: Classes of the model, with their colours.
        thresholds: Least score of the detections of each class that are drawn; None if no true boxes are known.
    """
    columns = ["image_id", "uri", "detections"]
    if thresholds is None:
        chosen = spread(images, 2 * EACH)
    else:
        chosen = _best_and_worst(images)
        columns += ["truth", "image_ap"]
    rows = dict(zip(sorted(chosen), take(run, files, sorted(chosen), columns), strict=True))
    pictures = [picture for i in chosen if (picture := _picture(rows[i], classes, thresholds)) is not None]
    headings = ["detections"] if thresholds is None else ["true boxes", "detections"]
    return draw_box_sheet(pictures, headings) if pictures else b""


def _best_and_worst(images: "Dataset") -> list[int]:
    """Return the positions of the images with the largest and the smallest average precision, the best first."""
    values = images.to_table(columns=["image_ap"])["image_ap"].to_numpy()
    known = np.flatnonzero(~np.isnan(values))
    ranked = known[np.argsort(-values[known], kind="stable")].tolist()
    return list(dict.fromkeys([*ranked[:EACH], *ranked[-EACH:]]))


def _picture(row: dict[str, Any], classes: Classes, thresholds: dict[str, float] | None) -> BoxPicture | None:
    """Return the row as a picture on the stored pixels; None if the image has vanished since."""
    try:
        decoded = decode_image(read_image_bytes(row["uri"]))
    except Exception:  # an image that vanished must not spoil a finished run
        return None
    pixels = from_upright(decoded.pixels, decoded.orientation)
    step = thinning(pixels)

    def drawn(box: dict[str, Any], colour: Colour, text: str) -> LabelledBox:
        return LabelledBox([box[name] / step for name in CORNERS], colour, text)

    if thresholds is None:
        palette = {
            name: (int(r), int(g), int(b)) for name, (r, g, b) in zip(classes.names, classes.palette, strict=True)
        }
        shown = row["detections"][:MOST_BOXES]
        found = [drawn(box, palette[box["class"]], f"{box['class']} {box['score']:.2f}") for box in shown]
        more = len(row["detections"]) - len(shown)
        title = f"{row['image_id']}: {len(row['detections'])} detections" + (f", {more} not drawn" if more else "")
        return BoxPicture(title, thinned(pixels), [found[::-1]])  # the best one lies over the others
    colours = {True: RIGHT, False: WRONG, None: IGNORED}
    found = [
        drawn(box, colours[box["correct"]], f"{box['class']} {box['score']:.2f}")
        for box in row["detections"]
        if box["score"] >= thresholds.get(box["class"], np.inf)
    ]
    truth = [drawn(box, IGNORED if box["difficult"] or box["crowd"] else TRUTH, box["class"]) for box in row["truth"]]
    return BoxPicture(f"{row['image_id']}: AP {row['image_ap']:.2f}", thinned(pixels), [truth, found[::-1]])
