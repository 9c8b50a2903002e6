"""The true boxes of images in a detection run: read by the driver, kept in the plan, compared in helper processes."""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from pipeline import storage
from pipeline.bulk.archives.archive import truth_key
from pipeline.data.box_annotations import PROBLEMS, BoxAnnotations, ObjectBox, Problem, read_boxes, usable_boxes
from pipeline.data.classes import Classes
from pipeline.errors import UserError
from pipeline.metrics.matching import Truth

NAMED = 5  # unknown classes that a message names
WITHOUT_SIZE: tuple[Problem, ...] = ("empty", "swapped", "duplicate")  # seen without the size of the image


def boxes_to_json(boxes: Iterable[ObjectBox]) -> str:
    """Return boxes as a text for the plan."""
    return json.dumps(list(boxes))


def boxes_from_json(text: str) -> list[ObjectBox]:
    """Return the boxes in a text of the plan."""
    return [ObjectBox(*row) for row in json.loads(text)]


class InImage(NamedTuple):
    """The true boxes of an image of known size.

    Attributes:
        boxes: Boxes of positive area, each once, clipped to the image.
        problems: Number of problems of the annotated boxes.
        error: A sentence about the first problem; None if there is none.
    """

    boxes: list[ObjectBox]
    problems: int
    error: str | None


def in_image(boxes: list[ObjectBox], size: tuple[int, int]) -> InImage:
    """Return the true boxes of an image of (height, width) `size`, and what is wrong with them."""
    height, width = size
    kept, problems = usable_boxes(boxes, height=height, width=width)
    if not problems:
        return InImage(kept, 0, None)
    problem, box = problems[0]
    corners = ", ".join(f"{corner:g}" for corner in box.corners)
    image = f"an image of {width}x{height} pixels"
    error = f"in {image}, boxes {PROBLEMS[problem]}: number {box.number} ({box.label}: {corners})"
    return InImage(kept, len(problems), error)


def as_truth(boxes: list[ObjectBox], classes: Classes) -> Truth:
    """Return boxes of known classes in the form of `pipeline.metrics`."""
    return Truth.of(
        np.array([box.corners for box in boxes], np.float64),
        np.array([classes.names.index(box.label) for box in boxes], np.int64),
        np.array([box.difficult for box in boxes], bool),
        np.array([box.crowd for box in boxes], bool),
    )


def truth_of_images(url: str, classes: Classes, ids: Iterable[list[str]]) -> Iterator[list[str | None]]:
    """Yield the true boxes of images as texts for the plan, None for an image that the annotations do not name.

    Lines are printed about boxes of unknown classes, boxes with swapped corners, without an area or there twice, and
    annotations of images that the run does not have.

    Args:
        url: The annotations, as `read_boxes` reads them.
        classes: Classes of the model.
        ids: Ids of all images, in lists that are not empty.

    Raises:
        UserError: The annotations cannot be read, or name none of the images.
    """
    annotations = read_boxes(url)
    reading = _Reading(annotations, classes)
    first = None
    for some in ids:
        first = first or some[0]
        yield [reading.text(image_id) for image_id in some]
    where = storage.redact(url)
    if first and not reading.found:
        raise UserError(
            f"{where} names none of the images; the first image is '{first}', the first named "
            f"'{min(annotations.by_key, default='–')}'"
        )
    for line in reading.lines():
        print(f"{where}: {line}")


class _Reading:
    """Looks up the boxes of images, and remembers what was left out.

    Args:
        annotations: Boxes of all images.
        classes: Classes of the model.

    Attributes:
        found: Keys of the annotations that belong to an image.
    """

    def __init__(self, annotations: BoxAnnotations, classes: Classes):
        self._annotations = annotations
        self._names = set(classes.names)
        self._unknown: dict[str, str] = {}  # where the first box of each class is annotated
        self._problems: dict[Problem, list[str]] = {}
        self.found: set[str] = set()

    def text(self, image_id: str) -> str | None:
        """Return the boxes of an image for the plan; None if it is not annotated."""
        key = self._annotations.find_key(truth_key(image_id, self._annotations.by_key))
        if key is None:
            return None
        self.found.add(key)
        known = []
        for box in self._annotations.by_key[key]:
            if box.label in self._names:
                known.append(box)
            else:
                self._unknown.setdefault(box.label, self._annotations.place(key, box))
        for problem, box in usable_boxes(known, height=sys.maxsize, width=sys.maxsize)[1]:
            if problem in WITHOUT_SIZE:
                self._problems.setdefault(problem, []).append(self._annotations.place(key, box))
        return boxes_to_json(known)

    def lines(self) -> Iterator[str]:
        """Yield a line for each kind of annotation that is left out."""
        if self._unknown:
            some = ", ".join(f"'{name}'" for name in list(self._unknown)[:NAMED])
            first = next(iter(self._unknown.values()))
            yield f"boxes of classes that the model does not know are left out: {some}; the first is {first}"
        for problem, places in self._problems.items():
            yield f"{len(places):,} boxes {PROBLEMS[problem]}; the first is {places[0]}"
        missing = self._annotations.by_key.keys() - self.found
        if missing:
            total = len(self._annotations)
            yield f"{len(missing):,} of the {total:,} images that it names are not in this run, as '{min(missing)}'"
