"""Pictures of a segmentation run: some of its images, fetched again, with their masks and label maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.bulk.drawn import SHEET_ROWS, Drawn
from pipeline.bulk.results import first_of_each, take
from pipeline.bulk.segmentation.ranking import Numbers, choose
from pipeline.bulk.table_input import read_image_bytes
from pipeline.data.classes import Classes
from pipeline.data.images import decode_image, decode_mask, decode_raw_label, from_upright
from pipeline.report.blocks import Card, Gallery, View
from pipeline.report.mask_sheet import MaskPicture, draw_mask_sheet, thinned
from pipeline.report.thumbnails import painted, photograph, small_size

VIEWS = {
    "Overlay": View("Overlay", ["picture", "prediction"], 0.6),
    "Picture": View("Picture", ["picture"]),
    "Truth": View("Truth", ["truth"]),
    "Prediction": View("Prediction", ["prediction"]),
}


def draw_gallery(run: str, files: Sequence[str], names: Sequence[str], numbers: Numbers, classes: Classes) -> Drawn:
    """Draw the images that are worth a look.

    Args:
        run: Folder of a run.
        files: Files of its rows below that folder, in order.
        names: Columns of the rows.
        numbers: Numbers of its images, which decide the choice.
        classes: Classes of its masks and label maps.
    """
    groups = choose(numbers)
    on_sheet = first_of_each(groups, SHEET_ROWS)
    positions = sorted(position for group in groups.values() for position in group)
    columns = [name for name in ("image_id", "uri", "mask", "label_uri", "label_error") if name in names]
    rows = dict(zip(positions, take(run, files, positions, columns), strict=True))
    cards: dict[str, list[Card]] = {}
    sheet: list[MaskPicture] = []
    for group, chosen in groups.items():
        for position in chosen:
            pixels, mask, truth = read_picture(rows[position], classes)
            note = _note(numbers, position) + ("" if pixels is not None else " · the image cannot be read now")
            cards.setdefault(group, []).append(card(rows[position]["image_id"], note, pixels, mask, truth, classes))
            if pixels is not None and position in on_sheet:
                sheet.append(MaskPicture(f"{rows[position]['image_id']}   {note}", pixels, mask, truth))
    return Drawn(gallery_of(cards, classes), draw_mask_sheet(sheet, classes) if sheet else b"")


def gallery_of(cards: dict[str, list[Card]], classes: Classes) -> Gallery:
    """Return a gallery with the views for which its cards have layers, and the classes that they show."""
    every = [one for group in cards.values() for one in group]
    layers = {layer for one in every for layer in one.images}
    views = [view for view in VIEWS.values() if set(view.layers) <= layers] or [VIEWS["Prediction"]]
    names = {name for one in every for name in one.names}
    legend = {name: colour for name, colour in classes.colour_of.items() if name in names}
    return Gallery(cards, views, legend)


def card(
    title: str,
    note: str,
    pixels: NDArray[np.uint8] | None,
    mask: NDArray,
    truth: NDArray | None,
    classes: Classes,
) -> Card:
    """Return an image with its mask and, if there is one, its label map as thumbnails."""
    images = {} if pixels is None else {"picture": photograph(pixels)}
    images |= {} if truth is None else {"truth": painted(truth, classes.palette)}
    images["prediction"] = painted(mask, classes.palette)
    shown = np.unique(mask) if truth is None else np.union1d(np.unique(mask), np.unique(truth))
    names = [classes.names[k] for k in shown.tolist() if 0 <= k < len(classes)]
    return Card(title, note, small_size(mask), images, names=names)


def read_picture(row: dict[str, Any], classes: Classes) -> tuple[NDArray[np.uint8] | None, NDArray, NDArray | None]:
    """Return a row's image, mask and label map on the stored pixels, thinned.

    An image or label map that has vanished since must not spoil a finished run: it is None.
    """
    mask = decode_mask(row["mask"]["bytes"])
    pixels = truth = None
    try:
        decoded = decode_image(read_image_bytes(row["uri"]))
        pixels = from_upright(decoded.pixels, decoded.orientation)
    except Exception:  # whatever the store or the decoder raises
        pixels = None
    if row.get("label_uri") and not row.get("label_error"):
        try:
            truth = classes.index(decode_raw_label(storage.read_bytes(row["label_uri"])))
        except Exception:  # as above
            truth = None
    if pixels is not None and pixels.shape[:2] != mask.shape:  # another image has taken its place
        pixels = None
    return None if pixels is None else thinned(pixels), thinned(mask), None if truth is None else thinned(truth)


def _note(numbers: Numbers, position: int) -> str:
    texts = []
    if not np.isnan(numbers.miou[position]):
        texts.append(f"mIoU {numbers.miou[position]:.3f}")
    if not np.isnan(numbers.entropy[position]):
        texts.append(f"entropy {numbers.entropy[position]:.3f}")
    if not np.isnan(numbers.changed[position]):
        texts.append(f"{numbers.changed[position]:.2%} changed by the CRF")
    return " · ".join(texts)
