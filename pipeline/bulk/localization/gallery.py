"""Pictures of a localization run: best and worst images if boxes are known, and a draw from the others."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.bulk.drawn import EACH, SEED, SHEET_ROWS, Drawn
from pipeline.bulk.localization.truth import ImageTruth
from pipeline.bulk.plan import PLAN
from pipeline.bulk.results import first_of_each, take
from pipeline.bulk.table_input import read_image_bytes
from pipeline.cam import activation
from pipeline.data.images import DecodedImage, decode_heatmap, decode_image, from_upright
from pipeline.report.blocks import Card, Gallery, GalleryBox, View
from pipeline.report.map_sheet import PREDICTED, TRUTH, MapPicture, draw_map_sheet
from pipeline.report.mask_sheet import thinned, thinning
from pipeline.report.thumbnails import heat, photograph, small_size

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

COLUMNS = ["image_id", "uri", "classes", "width", "height"]


def draw_gallery(run: str, files: Sequence[str], images: "Dataset", *, threshold: int | None) -> Drawn:
    """Draw the images that are worth a look.

    Args:
        run: Folder of a run.
        files: Files of its rows below that folder, in order.
        images: The rows.
        threshold: Index of the threshold whose boxes decide the best and worst images; None if no boxes are known.
    """
    good = pc.equal(images.to_table(columns=["status"])["status"], "ok").to_numpy()
    ious = np.full(len(good), np.nan) if threshold is None else _ious(images, threshold)
    groups = _choose(good, ious)
    on_sheet = first_of_each(groups, SHEET_ROWS)
    positions = sorted(position for group in groups.values() for position in group)
    rows = dict(zip(positions, take(run, files, positions, COLUMNS), strict=True))
    planned = dict(zip(positions, take(run, [PLAN], positions, ["truth"]), strict=True))
    cards: dict[str, list[Card]] = {}
    sheet: list[MapPicture] = []
    for group, chosen in groups.items():
        for position in chosen:
            truth = ImageTruth.from_json(planned[position]["truth"])
            note = "" if np.isnan(ious[position]) else f" · IoU {ious[position]:.2f}"
            decoded = _decoded(rows[position])
            cards.setdefault(group, []).append(_card(rows[position], truth, note, decoded))
            if decoded is not None and position in on_sheet:
                sheet.append(_picture(rows[position], truth, note, decoded))
    layers = {layer for group in cards.values() for card in group for layer in (*card.images, *card.boxes)}
    views = [View("Boxes", ["picture", "boxes", "true boxes"]), View("Picture", ["picture"])]
    views[1:1] = [View("Map", ["picture", "map"])] if "map" in layers else []
    return Drawn(Gallery(cards, views), draw_map_sheet(sheet) if sheet else b"")


def _choose(good: NDArray[np.bool_], ious: NDArray[np.float64]) -> dict[str, list[int]]:
    """Return positions by group; an image is in one group only."""
    known = np.flatnonzero(~np.isnan(ious))
    ranked = known[np.argsort(ious[known], kind="stable")]
    half = (len(ranked) + 1) // 2
    groups = {"Lowest IoU": ranked[:half][:EACH], "Highest IoU": ranked[half:][::-1][:EACH]}
    others = np.setdiff1d(np.flatnonzero(good), np.concatenate(list(groups.values())))
    groups["Random"] = np.random.default_rng(SEED).permutation(others)[:EACH]
    return {name: chosen.tolist() for name, chosen in groups.items() if len(chosen)}


def _ious(images: "Dataset", threshold: int) -> NDArray[np.float64]:
    """Return the IoU of the largest box of each row's first known class at a threshold; NaN if there is none."""
    rows = images.to_table(columns=["scored"])["scored"].to_pylist()
    best = [next((s["iou_largest"] for s in row or [] if s["iou_largest"] is not None), None) for row in rows]
    return np.array([np.nan if ious is None else ious[threshold] for ious in best], float)


def _decoded(row: Mapping[str, Any]) -> DecodedImage | None:
    """Return the image; None if it has vanished since, which must not spoil a finished run."""
    try:
        decoded = decode_image(read_image_bytes(row["uri"]))
    except Exception:  # whatever the store or the decoder raises
        return None
    stored = from_upright(decoded.pixels, decoded.orientation)
    return decoded if stored.shape[:2] == (row["height"], row["width"]) else None


def _about(row: Mapping[str, Any]) -> str:
    if not row["classes"]:
        return "nothing found"
    first = row["classes"][0]
    return f"{first['class']} {first['probability']:.0%}" + ("" if first["found"] else " (not found)")


def _map(row: Mapping[str, Any], decoded: DecodedImage) -> NDArray | None:
    """Return the map of the first class on the stored pixels; None if the run stores no maps."""
    if not row["classes"] or "heatmap" not in row["classes"][0]:
        return None
    first = row["classes"][0]
    raw = decode_heatmap(first["heatmap"]["bytes"], first["scale"], first["offset"])
    return from_upright(activation.heatmaps(raw[None], decoded.pixels.shape[:2])[0], decoded.orientation)


def _picture(row: Mapping[str, Any], truth: ImageTruth, note: str, decoded: DecodedImage) -> MapPicture:
    pixels, heatmap = from_upright(decoded.pixels, decoded.orientation), _map(row, decoded)
    step = thinning(pixels)
    boxes = [[x / step for x in box.values()] for entry in row["classes"] for box in entry["boxes"]]
    known = [[x / step for x in box[1:]] for box in truth.boxes]
    small = None if heatmap is None else heatmap[::step, ::step]
    return MapPicture(f"{row['image_id']}: {_about(row)}{note}", thinned(pixels), small, boxes, known)


def _card(row: Mapping[str, Any], truth: ImageTruth, note: str, decoded: DecodedImage | None) -> Card:
    width, height = row["width"], row["height"]
    sides = (width, height, width, height)

    def shares(corners: Sequence[float]) -> list[float]:
        return [x / side for x, side in zip(corners, sides, strict=True)]

    images = {}
    if decoded is not None:
        pixels, heatmap = from_upright(decoded.pixels, decoded.orientation), _map(row, decoded)
        images["picture"] = photograph(thinned(pixels))
        images |= {} if heatmap is None else {"map": heat(thinned(heatmap))}
    boxes = {
        "boxes": [
            GalleryBox(shares(list(box.values())), PREDICTED, entry["class"], entry["class"])
            for entry in row["classes"]
            for box in entry["boxes"]
        ],
        "true boxes": [GalleryBox(shares(box[1:]), TRUTH, "", "") for box in truth.boxes],
    }
    missing = "" if decoded is not None else " · the image cannot be read now"
    size = small_size(np.empty((height, width), bool))
    return Card(row["image_id"], f"{_about(row)}{note}{missing}", size, images, boxes)
