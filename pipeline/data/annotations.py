"""What is known of images: their classes, and boxes around them. Tables (CSV, Parquet) or Pascal VOC's XML files."""

import io
from collections.abc import Iterable
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.data import datasets
from pipeline.errors import UserError

IMAGE_COLUMNS = ("image", "image_id", "path", "file")
LABEL_COLUMNS = ("labels", "label", "class")
BOX_COLUMNS = ("xmin", "ymin", "xmax", "ymax")
SEPARATOR = ";"  # between several labels in a text


class Box(NamedTuple):
    """An object: its class and the first and last column and row that it covers, in pixels of the stored image."""

    label: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float


class Annotation(NamedTuple):
    """What is known of one image: the classes that it shows, without repetition, and boxes."""

    labels: tuple[str, ...]
    boxes: tuple[Box, ...]


class Annotations:
    """Annotations by image.

    Args:
        by_key: of each image, by its path below some root, without suffix.

    Attributes:
        by_key: as given.
    """

    def __init__(self, by_key: dict[str, Annotation]):
        self.by_key = by_key
        # A table may be written against a folder further up or further down than the one that is read.
        self._by_end: dict[str, list[str]] = {}
        for key in by_key:
            parts = key.split("/")
            for i in range(1, len(parts)):
                self._by_end.setdefault("/".join(parts[i:]), []).append(key)

    def __len__(self) -> int:
        return len(self.by_key)

    def find(self, key: str) -> Annotation | None:
        """Of the image with a key: the same key, or the only one of which one is the end of the other."""
        found = self.by_key.get(key)
        if found is not None:
            return found
        longer = self._by_end.get(key, [])
        if len(longer) == 1:
            return self.by_key[longer[0]]
        parts = key.split("/")
        for i in range(1, len(parts)):
            found = self.by_key.get("/".join(parts[i:]))
            if found is not None:
                return found
        return None


def read_annotations(url: str) -> Annotations:
    """Read a `.csv` or `.parquet` table, or a folder of `.xml` files in Pascal VOC's form.

    A table has a column `image` (or image_id, path, file) and a column `label` or `class`, or `labels` for several
    (a list, or a text with `;` between them); no label, no class. With columns xmin, ymin, xmax, ymax each row is a
    box. Rows of one image belong together.

    Raises:
        UserError: it cannot be read, or is none of these.
    """
    if url.endswith(".csv") or url.endswith((".parquet", ".pq")):
        return _from_table(url)
    with storage.friendly_errors(url, "cannot list"):
        files = [f for f in storage.list_files(url) if f.path.endswith(".xml")]
    if not files:
        raise UserError(f"{storage.redact(url)}: neither a .csv or .parquet table nor a folder of .xml files")
    fs, root = storage.filesystem(url)
    found = {}
    for file in files:
        place = storage.url_of(fs, file.path)
        found[datasets.key_of(file.path, root)] = _from_xml(storage.read_text(place, noun="annotation"), place)
    return Annotations(found)


def _from_table(url: str) -> Annotations:
    with storage.friendly_errors(url, "cannot read the table"):
        data = io.BytesIO(storage.read_bytes(url))
        try:
            table = pa.csv.read_csv(data) if url.endswith(".csv") else pq.read_table(data)
        except pa.ArrowInvalid as error:
            raise UserError(f"{storage.redact(url)}: no table ({' '.join(str(error).split())[:200]})") from None
    image = next((name for name in IMAGE_COLUMNS if name in table.column_names), None)
    label = next((name for name in LABEL_COLUMNS if name in table.column_names), None)
    if image is None or label is None:
        raise UserError(
            f"{storage.redact(url)}: needs a column 'image' and a column 'label', 'class' or 'labels'; "
            f"it has {', '.join(table.column_names)}"
        )
    boxed = all(name in table.column_names for name in BOX_COLUMNS)
    gathered: dict[str, tuple[dict[str, None], list[Box]]] = {}
    for i, row in enumerate(table.select([image, label, *(BOX_COLUMNS if boxed else ())]).to_pylist()):
        if not row[image]:
            raise UserError(f"{storage.redact(url)}: row {i} names no image")
        labels, boxes = gathered.setdefault(datasets.without_image_suffix(str(row[image])), ({}, []))
        names = _labels(row[label])
        labels.update(dict.fromkeys(names))
        corners = [row.get(name) for name in BOX_COLUMNS]
        if boxed and names and None not in corners:
            boxes.append(_box(names[0], corners, f"{storage.redact(url)}, row {i}"))
    return Annotations({key: Annotation(tuple(labels), tuple(boxes)) for key, (labels, boxes) in gathered.items()})


def _labels(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list):
        return [str(v) for v in value]
    return [part.strip() for part in str(value).split(SEPARATOR) if part.strip()]


def _from_xml(text: str, url: str) -> Annotation:
    try:
        objects = ElementTree.fromstring(text).findall("object")
    except ElementTree.ParseError as error:
        raise UserError(f"{storage.redact(url)}: no valid XML ({error})") from None
    boxes = []
    for thing in objects:
        corners = [thing.findtext(f"bndbox/{name}") for name in BOX_COLUMNS]
        boxes.append(_box(thing.findtext("name") or "", corners, storage.redact(url)))
    return Annotation(tuple(dict.fromkeys(box.label for box in boxes)), tuple(boxes))


def _box(label: str, corners: Iterable[Any], place: str) -> Box:
    try:
        xmin, ymin, xmax, ymax = map(float, corners)
    except (TypeError, ValueError):
        raise UserError(f"{place}: a box without the four numbers {', '.join(BOX_COLUMNS)}") from None
    if not (label and xmin <= xmax and ymin <= ymax):
        raise UserError(f"{place}: a box without a class, or with its corners the wrong way round ({xmin}, {ymin}, …)")
    return Box(label, xmin, ymin, xmax, ymax)
