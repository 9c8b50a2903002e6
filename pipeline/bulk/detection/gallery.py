"""Pictures of a detection run: best and worst images if true boxes are known, and a draw from the others."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.bulk.detection.comparison import CORNERS
from pipeline.bulk.drawn import EACH, SEED, SHEET_ROWS, Drawn
from pipeline.bulk.results import first_of_each, take
from pipeline.bulk.table_input import read_image_bytes
from pipeline.data.classes import Classes
from pipeline.data.images import decode_image, from_upright
from pipeline.report.blocks import Card, Gallery, GalleryBox, View
from pipeline.report.box_sheet import BoxPicture, Colour, LabelledBox, draw_box_sheet
from pipeline.report.mask_sheet import thinned, thinning
from pipeline.report.thumbnails import photograph, small_size

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

MOST_BOXES = 20  # detections drawn in an image whose true boxes are not known
TRUTH, RIGHT, WRONG, IGNORED = (40, 120, 255), (0, 160, 0), (230, 30, 30), (128, 128, 128)


class Boxes(NamedTuple):
    """A box of an image for its picture: the box in pixels of the stored image, and the name of its class."""

    box: LabelledBox
    name: str


def draw_gallery(
    run: str, files: Sequence[str], images: "Dataset", classes: Classes, *, thresholds: dict[str, float] | None
) -> Drawn:
    """Draw the images that are worth a look.

    Args:
        run: Folder of a run.
        files: Files of its rows below that folder, in order.
        images: The rows.
        classes: Classes of the model, with their colours.
        thresholds: Least score of the detections of each class that are drawn; None if no true boxes are known.
    """
    columns = ["image_id", "uri", "detections", "width", "height"]
    columns += [] if thresholds is None else ["truth", "image_ap"]
    groups = _choose(images, scored=thresholds is not None)
    on_sheet = first_of_each(groups, SHEET_ROWS)
    positions = sorted(position for group in groups.values() for position in group)
    rows = dict(zip(positions, take(run, files, positions, columns), strict=True))
    cards: dict[str, list[Card]] = {}
    sheet: list[BoxPicture] = []
    for group, chosen in groups.items():
        for position in chosen:
            row = rows[position]
            layers = boxes_of(row, classes, thresholds)
            pixels = _pixels(row)
            cards.setdefault(group, []).append(_card(row, layers, pixels, scored=thresholds is not None))
            if pixels is not None and position in on_sheet:
                step = thinning(pixels)
                title = f"{row['image_id']}: {_note(row, scored=thresholds is not None)}"
                sheet.append(BoxPicture(title, thinned(pixels), [_thinned(boxes, step) for boxes in layers.values()]))
    views = [View("Detections", ["picture", "detections"]), View("Picture", ["picture"])]
    views[1:1] = [] if thresholds is None else [View("True boxes", ["picture", "true boxes"])]
    names = {name for group in cards.values() for card in group for name in card.names}
    legend = {name: colour for name, colour in classes.colour_of.items() if name in names}
    headings = ["detections"] if thresholds is None else ["true boxes", "detections"]
    return Drawn(Gallery(cards, views, legend), draw_box_sheet(sheet, headings) if sheet else b"")


def _choose(images: "Dataset", *, scored: bool) -> dict[str, list[int]]:
    """Return positions by group; an image is in one group only."""
    good = np.flatnonzero(pc.equal(images.to_table(columns=["status"])["status"], "ok").to_numpy())
    ranked = np.zeros(0, int)
    if scored:
        values = images.to_table(columns=["image_ap"])["image_ap"].to_numpy()
        known = np.flatnonzero(~np.isnan(values))
        ranked = known[np.argsort(values[known], kind="stable")]
    half = (len(ranked) + 1) // 2
    groups = {"Lowest average precision": ranked[:half][:EACH], "Highest average precision": ranked[half:][::-1][:EACH]}
    others = np.setdiff1d(good, np.concatenate(list(groups.values())))
    groups["Random"] = np.random.default_rng(SEED).permutation(others)[:EACH]
    return {name: chosen.tolist() for name, chosen in groups.items() if len(chosen)}


def boxes_of(row: Mapping[str, Any], classes: Classes, thresholds: dict[str, float] | None) -> dict[str, list[Boxes]]:
    """Return the boxes of a row by layer, those to be drawn last at the end."""
    if thresholds is None:
        found = [(box, classes.colour_of[box["class"]]) for box in row["detections"][:MOST_BOXES]]
    else:
        colours = {True: RIGHT, False: WRONG, None: IGNORED}
        found = [
            (box, colours[box["correct"]])
            for box in row["detections"]
            if box["score"] >= thresholds.get(box["class"], np.inf)
        ]
    # The best one lies over the others.
    detections = [_box(box, colour, f"{box['class']} {box['score']:.2f}") for box, colour in found[::-1]]
    if thresholds is None:
        return {"detections": detections}
    truth = [
        _box(box, IGNORED if box["difficult"] or box["crowd"] else TRUTH, box["class"]) for box in row["truth"] or []
    ]
    return {"true boxes": truth, "detections": detections}


def _box(box: Mapping[str, Any], colour: Colour, text: str) -> Boxes:
    return Boxes(LabelledBox([box[name] for name in CORNERS], colour, text), box["class"])


def _thinned(boxes: Sequence[Boxes], step: int) -> list[LabelledBox]:
    return [box._replace(corners=[corner / step for corner in box.corners]) for box, _ in boxes]


def _pixels(row: Mapping[str, Any]) -> NDArray[np.uint8] | None:
    """Return the stored pixels of an image; None if it has vanished since, which must not spoil a finished run."""
    try:
        decoded = decode_image(read_image_bytes(row["uri"]))
    except Exception:  # whatever the store or the decoder raises
        return None
    pixels = from_upright(decoded.pixels, decoded.orientation)
    return pixels if pixels.shape[:2] == (row["height"], row["width"]) else None


def _card(
    row: Mapping[str, Any], layers: Mapping[str, Sequence[Boxes]], pixels: NDArray[np.uint8] | None, *, scored: bool
) -> Card:
    width, height = row["width"], row["height"]
    sides = (width, height, width, height)
    boxes = {
        layer: [
            GalleryBox([x / side for x, side in zip(box.corners, sides, strict=True)], box.colour, box.text, name)
            for box, name in some
        ]
        for layer, some in layers.items()
    }
    return Card(
        row["image_id"],
        _note(row, scored=scored) + ("" if pixels is not None else " · the image cannot be read now"),
        small_size(np.empty((height, width), bool)),
        {} if pixels is None else {"picture": photograph(thinned(pixels))},
        boxes,
        sorted({name for some in layers.values() for _, name in some}),
    )


def _note(row: Mapping[str, Any], *, scored: bool) -> str:
    if scored and row["image_ap"] is not None:
        return f"AP {row['image_ap']:.2f}"
    more = len(row["detections"]) - MOST_BOXES
    return f"{len(row['detections'])} detections" + (f", {more} not drawn" if not scored and more > 0 else "")
