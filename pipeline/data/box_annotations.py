"""Boxes of objects, read from Pascal VOC's XML files, COCO's JSON file, or a table.

The three count pixels differently. This module converts them to left, top, right, bottom in pixels of the stored image,
where the first pixel begins at 0, and right and bottom are exclusive:

    VOC     xmin, ymin, xmax, ymax: first and last pixel, counted from 1  ->  xmin - 1, ymin - 1, xmax, ymax
    COCO    x, y, width, height in the plane                              ->  x, y, x + width, y + height
    table   xmin, ymin, xmax, ymax: first and last pixel, counted from 0  ->  xmin, ymin, xmax + 1, ymax + 1
"""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple
from xml.etree import ElementTree

from pipeline import storage
from pipeline.data import datasets
from pipeline.data.annotations import (
    BOX_COLUMNS,
    Annotations,
    image_and_label_columns,
    image_key,
    read_table,
    split_labels,
)
from pipeline.errors import UserError
from pipeline.threads import in_order

BORDER = 1.0  # pixels by which a box may exceed the picture uncounted: tools differ in whether they count from 0 or 1

Problem = Literal["clipped", "outside", "empty", "swapped", "duplicate"]
PROBLEMS: dict[Problem, str] = {
    "clipped": "reach out of the picture and are clipped",
    "outside": "lie outside of the picture and are left out",
    "empty": "have no area and are left out",
    "swapped": "have swapped corners, which are put in order",
    "duplicate": "are there twice, and are left out once",
}


class ObjectBox(NamedTuple):
    """An annotated object.

    Attributes:
        label: Name of its class.
        left: First column, in pixels of the stored image.
        top: First row.
        right: Column after the last one.
        bottom: Row after the last one.
        difficult: Whether it need not be found (VOC).
        crowd: Whether it is a region of many objects (COCO).
        swapped: Whether the corners are annotated in the wrong order; here they are in order.
        number: Position in its XML file, counted from 1; row of its table, counted from 0; or COCO's id.
    """

    label: str
    left: float
    top: float
    right: float
    bottom: float
    difficult: bool = False
    crowd: bool = False
    swapped: bool = False
    number: int = 0

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return self.left, self.top, self.right, self.bottom


class BoxAnnotations(Annotations[list[ObjectBox]]):
    """The boxes of each image; an image that is named without boxes shows the background alone.

    Args:
        by_key: Boxes by the key of the image.
        place: Returns where the box of a key and a number is annotated, for messages.
    """

    def __init__(self, by_key: dict[str, list[ObjectBox]], place: Callable[[str, int], str]):
        super().__init__(by_key)
        self._place = place

    def place(self, key: str, box: ObjectBox) -> str:
        """Return where a box of an image is annotated, for messages."""
        corners = ", ".join(f"{c:g}" for c in box.corners)
        return f"{self._place(key, box.number)} ({box.label}: {corners})"


def read_boxes(url: str) -> BoxAnnotations:
    """Read the boxes of images.

    Args:
        url: A folder of `.xml` files in the format of Pascal VOC, paired with images by their paths; a `.json` file in
            the format of COCO; or a `.csv` or `.parquet` table with columns image, label, xmin, ymin, xmax, ymax, and
            perhaps difficult and crowd. In a table, an image without boxes is a row without a label.

    Raises:
        UserError: The annotations cannot be read, or are in another format.
    """
    if url.endswith(".json"):
        return _from_coco(url)
    if url.endswith((".csv", ".parquet", ".pq")):
        return _from_table(url)
    with storage.friendly_errors(url, "cannot list"):
        files = [f for f in storage.list_files(url) if f.path.endswith(".xml")]
    if not files:
        raise UserError(
            f"{storage.redact(url)}: neither a folder of .xml files, nor a .json file, nor a .csv or .parquet table"
        )
    fs, root = storage.filesystem(url)
    read = in_order(lambda file: _from_xml(storage.url_of(fs, file.path)), files)
    by_key = {datasets.key_of(file.path, root): boxes for file, boxes in zip(files, read, strict=True)}
    return BoxAnnotations(by_key, lambda key, number: f"{storage.redact(url)}/{key}.xml, object {number}")


def _from_xml(url: str) -> list[ObjectBox]:
    try:
        objects = ElementTree.fromstring(storage.read_text(url, noun="annotation")).findall("object")
    except ElementTree.ParseError as error:
        raise UserError(f"{storage.redact(url)}: no valid XML ({error})") from None
    boxes = []
    for number, element in enumerate(objects, start=1):
        place = f"{storage.redact(url)}, object {number}"
        first = [element.findtext(f"bndbox/{name}") for name in BOX_COLUMNS]
        left, top, right, bottom, swapped = _ordered(first, place, names=BOX_COLUMNS)
        difficult = (element.findtext("difficult") or "0").strip() not in ("0", "")
        label = _label(element.findtext("name"), place)
        boxes.append(ObjectBox(label, left - 1, top - 1, right, bottom, difficult, False, swapped, number))
    return boxes


def _from_table(url: str) -> BoxAnnotations:
    table = read_table(url)
    image, label = image_and_label_columns(table, url)
    missing = [name for name in BOX_COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(f"{storage.redact(url)}: has no column {', '.join(missing)}; it has {table.column_names}")
    flags = [name for name in ("difficult", "crowd") if name in table.column_names]
    by_key: dict[str, list[ObjectBox]] = {}
    for i, row in enumerate(table.select([image, label, *BOX_COLUMNS, *flags]).to_pylist()):
        place = f"{storage.redact(url)}, row {i} (counted from 0)"
        if not row[image]:
            raise UserError(f"{place}: names no image")
        boxes = by_key.setdefault(image_key(row[image]), [])
        names, corners = split_labels(row[label]), [row[name] for name in BOX_COLUMNS]
        if not names and corners == [None] * 4:
            continue
        left, top, right, bottom, swapped = _ordered(corners, place, names=BOX_COLUMNS)
        difficult, crowd = (bool(row.get(name)) for name in ("difficult", "crowd"))
        name = _label(names[0] if names else None, place)
        boxes.append(ObjectBox(name, left, top, right + 1, bottom + 1, difficult, crowd, swapped, i))
    return BoxAnnotations(by_key, lambda _, number: f"{storage.redact(url)}, row {number} (counted from 0)")


def _from_coco(url: str) -> BoxAnnotations:
    shown = storage.redact(url)
    try:
        content = json.loads(storage.read_text(url, noun="COCO file"))
        images = {image["id"]: image_key(image["file_name"]) for image in content["images"]}
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        fields = ("id", "image_id", "category_id", "bbox")
        rows = [(*(row[name] for name in fields), row.get("iscrowd", 0)) for row in content["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{shown}: no COCO file ({type(error).__name__}: {error})") from None
    by_key: dict[str, list[ObjectBox]] = {}
    for key in images.values():
        if key in by_key:
            raise UserError(f"{shown}: two images have the name '{key}'")
        by_key[key] = []
    for number, image, category, bbox, crowd in rows:
        place = f"{shown}, annotation {number}"
        if image not in images:
            raise UserError(f"{place}: its image_id {image} is not among the images")
        if category not in names:
            raise UserError(f"{place}: its category_id {category} is not among the categories")
        x, y, width, height = _numbers(bbox, place, names=("x", "y", "width", "height"))
        left, top, right, bottom, swapped = _ordered((x, y, x + width, y + height), place, names=BOX_COLUMNS)
        box = ObjectBox(names[category], left, top, right, bottom, False, bool(crowd), swapped, number)
        by_key[images[image]].append(box)
    return BoxAnnotations(by_key, lambda _, number: f"{shown}, annotation {number}")


def _label(text: Any, place: str) -> str:
    if not text or not str(text).strip():
        raise UserError(f"{place}: a box without a class")
    return str(text).strip()


def _numbers(values: Any, place: str, *, names: Sequence[str]) -> list[float]:
    try:
        numbers = [float(value) for value in values]
        if len(numbers) == 4 and all(map(math.isfinite, numbers)):
            return numbers
    except (TypeError, ValueError):
        pass
    raise UserError(f"{place}: a box without the four numbers {', '.join(names)}")


def _ordered(corners: Any, place: str, *, names: Sequence[str]) -> tuple[float, float, float, float, bool]:
    """Return the corners in order, and whether they were swapped."""
    x0, y0, x1, y1 = _numbers(corners, place, names=names)
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1), x0 > x1 or y0 > y1


def usable_boxes(
    boxes: Sequence[ObjectBox], *, height: int, width: int
) -> tuple[list[ObjectBox], list[tuple[Problem, ObjectBox]]]:
    """Return the boxes that an image of a size can have, clipped to it, and what was wrong with the others.

    Args:
        boxes: Boxes of an image.
        height: Height of the stored image.
        width: Its width.
    """
    kept: dict[tuple[Any, ...], ObjectBox] = {}
    problems: list[tuple[Problem, ObjectBox]] = []
    for box in boxes:
        left, top, right, bottom = box.corners
        clipped = box._replace(
            left=min(max(left, 0.0), width),
            top=min(max(top, 0.0), height),
            right=min(max(right, 0.0), width),
            bottom=min(max(bottom, 0.0), height),
        )
        if box.swapped:
            problems.append(("swapped", box))
        if right <= left or bottom <= top:
            problems.append(("empty", box))
        elif clipped.right <= clipped.left or clipped.bottom <= clipped.top:
            problems.append(("outside", box))
        elif (same := (box.label, *box.corners)) in kept:
            problems.append(("duplicate", box))
        else:
            if min(left, top, width - right, height - bottom) < -BORDER:
                problems.append(("clipped", box))
            kept[same] = clipped
    return list(kept.values()), problems
