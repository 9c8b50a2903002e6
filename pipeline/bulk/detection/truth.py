"""The true boxes of images in a detection run: read by the driver, kept in the plan, compared in helper processes."""

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from pipeline import storage
from pipeline.bulk.archives.archive import truth_key
from pipeline.data.annotations import Annotation, Annotations, read_annotations
from pipeline.data.classes import Classes
from pipeline.errors import UserError
from pipeline.metrics.matching import Truth

NAMED = 5  # unknown classes that a message names


class TrueBox(NamedTuple):
    """A true box.

    Attributes:
        label: Index of its class.
        corners: Left, top, right, bottom in pixels of the stored image, with right and bottom exclusive.
        difficult: Whether it need not be found (Pascal VOC).
        crowd: Whether it is a region of many objects that need not be found (COCO).
    """

    label: int
    corners: tuple[float, ...]
    difficult: bool = False
    crowd: bool = False


def boxes_to_json(boxes: Iterable[TrueBox]) -> str:
    """Return boxes as a text for the plan."""
    return json.dumps(list(boxes))


def boxes_from_json(text: str) -> list[TrueBox]:
    """Return the boxes in a text of the plan."""
    return [TrueBox(label, tuple(corners), *flags) for label, corners, *flags in json.loads(text)]


class Clipped(NamedTuple):
    """The true boxes within an image.

    Attributes:
        boxes: Boxes of positive area, clipped to the image.
        outside: Number of boxes that lie outside of the image and are left out.
        error: A sentence about the first of them; None if there are none.
    """

    boxes: list[TrueBox]
    outside: int
    error: str | None


def clipped(boxes: list[TrueBox], size: tuple[int, int], names: tuple[str, ...]) -> Clipped:
    """Return the boxes within an image of (height, width) `size`; `names` are those of the classes."""
    height, width = size
    inside: list[TrueBox] = []
    error = None
    for i, box in enumerate(boxes):
        left, top, right, bottom = box.corners
        corners = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
        if corners[0] < corners[2] and corners[1] < corners[3]:
            inside.append(box._replace(corners=corners))
        elif error is None:
            place = " ".join(f"{corner:g}" for corner in box.corners)
            error = f"box {i + 1} ({names[box.label]}, {place}) lies outside of the image of {width}x{height} pixels"
    return Clipped(inside, len(boxes) - len(inside), error)


def as_truth(boxes: list[TrueBox]) -> Truth:
    """Return boxes in the form of `pipeline.metrics`."""
    return Truth.of(
        np.array([box.corners for box in boxes], np.float64),
        np.array([box.label for box in boxes], np.int64),
        np.array([box.difficult for box in boxes], bool),
        np.array([box.crowd for box in boxes], bool),
    )


def truth_of_images(url: str, classes: Classes, ids: Iterable[list[str]]) -> Iterator[list[str | None]]:
    """Yield the true boxes of images as texts for the plan, None for an image that the annotations do not name.

    One line is printed for each kind of annotation that is left out: boxes of unknown classes, boxes that are there
    twice, and images that the run does not have.

    Args:
        url: The annotations, as `read_annotations` reads them.
        classes: Classes of the model.
        ids: Ids of all images, in lists that are not empty.

    Raises:
        UserError: The annotations cannot be read, or name none of the images.
    """
    annotations = read_annotations(url)
    reading = _Reading(classes)
    first, named = None, set[int]()
    for some in ids:
        first = first or some[0]
        texts: list[str | None] = []
        for image_id in some:
            known = annotations.find(truth_key(image_id, annotations.by_key))
            if known is None:
                texts.append(None)
                continue
            named.add(id(known))
            texts.append(boxes_to_json(reading.boxes(image_id, known)))
        yield texts
    where = storage.redact(url)
    if first and not named:
        raise UserError(
            f"{where} names none of the images; the first image is '{first}', the first named "
            f"'{min(annotations.by_key, default='–')}'"
        )
    for line in [*reading.lines(), *_missing(annotations, named)]:
        print(f"{where}: {line}")


def _missing(annotations: Annotations, named: set[int]) -> Iterator[str]:
    """Yield a line if annotations belong to none of the images."""
    missing = [key for key, annotation in annotations.by_key.items() if id(annotation) not in named]
    if missing:
        yield f"{len(missing):,} of {len(annotations):,} images that it names are not in this run: '{min(missing)}', …"


class _Reading:
    """Turns annotations into boxes, and remembers what was left out.

    Args:
        classes: Classes of the model.
    """

    def __init__(self, classes: Classes):
        self._index = {name: k for k, name in enumerate(classes.names)}
        self._unknown: dict[str, str] = {}  # the first image with a box of the class
        self._twice = 0
        self._first_twice = ""

    def boxes(self, image_id: str, annotation: Annotation) -> list[TrueBox]:
        """Return the boxes of an image; each is there once."""
        boxes: dict[TrueBox, None] = {}  # a dictionary is an ordered set
        for box in annotation.boxes:
            if box.label not in self._index:
                self._unknown.setdefault(box.label, image_id)
                continue
            # An annotation names the last pixel of a box, and here the corner beyond it.
            corners = (box.xmin, box.ymin, box.xmax + 1, box.ymax + 1)
            one = TrueBox(self._index[box.label], corners, box.difficult, box.crowd)
            if one in boxes:
                self._twice += 1
                place = " ".join(f"{corner:g}" for corner in (box.xmin, box.ymin, box.xmax, box.ymax))
                self._first_twice = self._first_twice or f"{image_id}: {box.label}, {place}"
            boxes[one] = None
        return list(boxes)

    def lines(self) -> Iterator[str]:
        """Yield a line for each kind of box that was left out."""
        if self._unknown:
            some = [f"'{name}' (in {image_id})" for name, image_id in list(self._unknown.items())[:NAMED]]
            yield f"boxes of classes that the model does not know are left out: {', '.join(some)}"
        if self._twice:
            yield f"{self._twice:,} boxes are there twice and count once: {self._first_twice}"
