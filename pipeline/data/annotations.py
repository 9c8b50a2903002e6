"""Image labels and boxes, read from a CSV or Parquet table or from Pascal VOC's XML files."""

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from xml.etree import ElementTree

from pipeline import storage
from pipeline.data import datasets
from pipeline.data.image_ids import named_id
from pipeline.errors import UserError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_COLUMNS = ("image", "image_id", "path", "file")
LABEL_COLUMNS = ("labels", "label", "class")
BOX_COLUMNS = ("xmin", "ymin", "xmax", "ymax")
SEPARATOR = ";"  # between several labels in one text cell


class Box(NamedTuple):
    """An annotated object.

    The corners are the first and the last column and row that the object covers, in pixels of the stored image.
    """

    label: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float


class Annotation(NamedTuple):
    """The annotation of one image: the distinct classes in it, and boxes."""

    labels: tuple[str, ...]
    boxes: tuple[Box, ...]


T = TypeVar("T")


class Annotations(Generic[T]):
    """Annotations by image.

    Args:
        by_key: Annotation of each image. A key is the image's path below some root, without suffix.

    Attributes:
        by_key: The argument `by_key`.
    """

    def __init__(self, by_key: dict[str, T]):
        self.by_key = by_key
        # The paths in a table may start at a folder above or below the one that holds the images.
        self._by_path_end: dict[str, list[str]] = {}
        for key in by_key:
            parts = key.split("/")
            for i in range(1, len(parts)):
                self._by_path_end.setdefault("/".join(parts[i:]), []).append(key)

    def __len__(self) -> int:
        return len(self.by_key)

    def find(self, key: str) -> T | None:
        """Return the annotation of an image; see `find_key`."""
        found = self.find_key(key)
        return None if found is None else self.by_key[found]

    def find_key(self, key: str) -> str | None:
        """Return the key in `by_key` under which an image is annotated.

        If no key is equal, this is the only key that ends with the given one, or else the longest key that the given
        one ends with. Only whole path components are compared.
        """
        if key in self.by_key:
            return key
        longer = self._by_path_end.get(key, [])
        if len(longer) == 1:
            return longer[0]
        parts = key.split("/")
        ends = ("/".join(parts[i:]) for i in range(1, len(parts)))
        return next((end for end in ends if end in self.by_key), None)


def read_annotations(url: str) -> Annotations[Annotation]:
    """Read a `.csv` or `.parquet` table, or a folder of `.xml` files in the format of Pascal VOC.

    A table has a column `image` (or image_id, path, file) and a column `label` or `class`, or a column `labels` for
    several classes (a list, or a text with `;` between them). An empty cell means no class. If the table has columns
    xmin, ymin, xmax and ymax, each row is a box. An image may have several rows.

    Raises:
        UserError: The annotations cannot be read, or are in another format.
    """
    if url.endswith((".csv", ".parquet", ".pq")):
        return _from_table(url)
    with storage.friendly_errors(url, "cannot list"):
        files = [f for f in storage.list_files(url) if f.path.endswith(".xml")]
    if not files:
        raise UserError(f"{storage.redact(url)}: neither a .csv or .parquet table nor a folder of .xml files")
    fs, root = storage.filesystem(url)
    by_key = {}
    for file in files:
        file_url = storage.url_of(fs, file.path)
        text = storage.read_text(file_url, noun="annotation")
        by_key[datasets.key_of(file.path, root)] = _from_xml(text, file_url)
    return Annotations(by_key)


def _from_table(url: str) -> Annotations[Annotation]:
    table = read_table(url)
    image, label = image_and_label_columns(table, url)
    has_boxes = all(name in table.column_names for name in BOX_COLUMNS)
    by_key: dict[str, tuple[dict[str, None], list[Box]]] = {}  # a dictionary is an ordered set of labels
    for i, row in enumerate(table.select([image, label, *(BOX_COLUMNS if has_boxes else ())]).to_pylist()):
        if not row[image]:
            raise UserError(f"{storage.redact(url)}: row {i} (counted from 0) names no image")
        labels, boxes = by_key.setdefault(image_key(row[image]), ({}, []))
        names = split_labels(row[label])
        labels.update(dict.fromkeys(names))
        corners = [row.get(name) for name in BOX_COLUMNS]
        if has_boxes and names and None not in corners:
            boxes.append(_box(names[0], corners, f"{storage.redact(url)}, row {i} (counted from 0)"))
    return Annotations({key: Annotation(tuple(labels), tuple(boxes)) for key, (labels, boxes) in by_key.items()})


def image_key(name: Any) -> str:
    """Return the key of an image that a table or a list names."""
    return datasets.without_image_suffix(named_id(str(name)))


def image_and_label_columns(table: "pa.Table", url: str) -> tuple[str, str]:
    """Return the names of the columns of a table of annotations that hold images and classes.

    Raises:
        UserError: There are no such columns.
    """
    image = next((name for name in IMAGE_COLUMNS if name in table.column_names), None)
    label = next((name for name in LABEL_COLUMNS if name in table.column_names), None)
    if image is None or label is None:
        raise UserError(
            f"{storage.redact(url)}: needs a column 'image' and a column 'label', 'class' or 'labels'; "
            f"it has {', '.join(table.column_names)}"
        )
    return image, label


def read_table(url: str) -> "pa.Table":
    """Read a `.csv` or `.parquet` table of annotations.

    Raises:
        UserError: It cannot be read, or is no table.
    """
    import pyarrow as pa

    with storage.friendly_errors(url, "cannot read the table"):
        data = io.BytesIO(storage.read_bytes(url))
        try:
            if url.endswith(".csv"):
                import pyarrow.csv

                return pyarrow.csv.read_csv(data)
            import pyarrow.parquet

            return pyarrow.parquet.read_table(data)
        except pa.ArrowInvalid as error:
            raise UserError(f"{storage.redact(url)}: no table ({one_line(error)})") from None


def split_labels(cell: Any) -> list[str]:
    """Return the classes that a cell names."""
    if cell is None:
        return []
    if isinstance(cell, list):
        return [str(v) for v in cell]
    return [part.strip() for part in str(cell).split(SEPARATOR) if part.strip()]


def _from_xml(text: str, url: str) -> Annotation:
    try:
        objects = ElementTree.fromstring(text).findall("object")
    except ElementTree.ParseError as error:
        raise UserError(f"{storage.redact(url)}: no valid XML ({error})") from None
    boxes = []
    for element in objects:
        corners = [element.findtext(f"bndbox/{name}") for name in BOX_COLUMNS]
        boxes.append(_box(element.findtext("name") or "", corners, storage.redact(url)))
    return Annotation(tuple(dict.fromkeys(box.label for box in boxes)), tuple(boxes))


def _box(label: str, corners: Iterable[Any], place: str) -> Box:
    """Return a checked box; `place` is where it was found, for the error message."""
    try:
        xmin, ymin, xmax, ymax = map(float, corners)
    except (TypeError, ValueError):
        raise UserError(f"{place}: a box without the four numbers {', '.join(BOX_COLUMNS)}") from None
    if not (label and xmin <= xmax and ymin <= ymax):
        raise UserError(f"{place}: a box without a class, or with swapped corners ({xmin}, {ymin}, {xmax}, {ymax})")
    return Box(label, xmin, ymin, xmax, ymax)
