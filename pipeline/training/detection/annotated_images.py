"""The images of a data set with their boxes. Imports no PyTorch."""

from dataclasses import dataclass

from pipeline import storage
from pipeline.data import datasets
from pipeline.data.box_annotations import BoxAnnotations, ObjectBox, read_boxes
from pipeline.errors import UserError
from pipeline.training.detection.config import AnnotatedImages


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its boxes as annotated.

    Attributes:
        key: Path of the image below the root, without suffix.
        image: URL of the image.
        annotation: Key of its annotation.
        boxes: Boxes in pixels of the stored image.
    """

    key: str
    image: str
    annotation: str
    boxes: list[ObjectBox]


@dataclass(frozen=True)
class AnnotatedSplit:
    """A part of a data set.

    Attributes:
        name: "train" or "val".
        images: The images, in the order of their keys or of the list.
        annotations: All annotations.
    """

    name: str
    images: list[AnnotatedImage]
    annotations: BoxAnnotations


def read_annotated(split: AnnotatedImages, *, name: str) -> AnnotatedSplit:
    """List the images of a split with their boxes, and print what does not fit together.

    An image that the annotations do not name is left out: it may well show objects. One that they name without a box
    shows the background.

    Args:
        split: Where images and boxes are.
        name: "train" or "val", for messages.

    Raises:
        UserError: There is no image with an annotation, or a listed one has none.
    """
    urls = datasets.files_by_key(split.images)
    annotations = read_boxes(split.boxes)
    named = {key: annotations.find_key(key) for key in urls}
    found = {
        key: AnnotatedImage(key, urls[key], other, annotations.by_key[other])
        for key, other in named.items()
        if other is not None
    }
    where = storage.redact(split.boxes)
    if not found:
        raise UserError(
            f"{name}: {where} names none of the images; the first image is '{min(urls)}', the first named "
            f"'{min(annotations.by_key, default='–')}'"
        )
    used: dict[str, str] = {}
    for image in found.values():
        other = used.setdefault(image.annotation, image.key)
        if other != image.key:
            raise UserError(f"{name}: the images '{other}' and '{image.key}' have one annotation, '{image.annotation}'")
    unused = sorted(annotations.by_key.keys() - used.keys())
    if unused:
        print(f"{name}: {where} names {len(unused)} images that are not there, the first '{unused[0]}'")
    if split.list is not None:
        wanted = datasets.read_list(split.list)
        missing = [key for key in wanted if key not in found]
        if missing:
            raise UserError(
                f"{name}: {len(missing)} of {len(wanted)} listed images are not there or not annotated, the first "
                f"'{missing[0]}'"
            )
        return AnnotatedSplit(name, [found[key] for key in wanted], annotations)
    without = [key for key in urls if key not in found]
    if without:
        print(f"{name}: {len(without)} images are not annotated and are left out, the first '{without[0]}'")
    return AnnotatedSplit(name, [found[key] for key in sorted(found)], annotations)


def class_names(split: AnnotatedSplit) -> tuple[str, ...]:
    """Return the names of the classes of a split's boxes, sorted.

    Raises:
        UserError: There is no box.
    """
    names = sorted({box.label for image in split.images for box in image.boxes})
    if not names:
        raise UserError(f"{split.name}: no image has a box")
    return tuple(names)


def refuse_unknown(split: AnnotatedSplit, names: tuple[str, ...]) -> None:
    """Refuse boxes of other classes: left out, they would be learnt as background.

    Raises:
        UserError: There is such a box; the message names it.
    """
    for image in split.images:
        for box in image.boxes:
            if box.label not in names:
                place = split.annotations.place(image.annotation, box)
                raise UserError(
                    f"{split.name}: {place}: '{box.label}' is not among the classes ({', '.join(names[:5])}"
                    f"{', …' if len(names) > 5 else ''})"
                )
