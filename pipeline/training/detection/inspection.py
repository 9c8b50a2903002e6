"""Reading a whole data set of boxes in parallel to find what is wrong with it, before a training run does."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pipeline import cluster, storage
from pipeline.data import datasets, images
from pipeline.data.box_annotations import BoxAnnotations, read_boxes
from pipeline.data.classes import Classes, load_classes
from pipeline.errors import UserError
from pipeline.report.box_sheet import BoxPicture, draw_box_sheet
from pipeline.training.detection.annotated_images import AnnotatedImage
from pipeline.training.detection.survey import look_at
from pipeline.training.problems import Problem, format_problems, summarise_problems
from pipeline.training.segmentation.config import InspectConfig

CHUNK = 64  # images in a task
PREVIEWED = 8
TEXTS = {
    "clipped": "it reaches out of the picture; training clips it",
    "outside": "it lies outside of the picture; training leaves it out",
    "empty": "it has no area; training leaves it out",
    "swapped": "its corners are swapped; training puts them in order",
    "duplicate": "it is there twice; training leaves one out",
}
SIDES = {"small": 32.0, "medium": 96.0, "large": float("inf")}  # square roots of the largest areas, as COCO has them


@dataclass
class ClassBoxes:
    """The boxes of a class.

    Attributes:
        boxes: Number of boxes that can be used.
        images: Images that have one.
        sizes: Boxes of each of `SIDES`.
    """

    boxes: int = 0
    images: int = 0
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))


@dataclass
class BoxInspection:
    """The content of a data set of boxes.

    Attributes:
        images: Images that are annotated.
        empty: Images that are annotated and have no box.
        most: Largest number of boxes in an image.
        classes: Boxes of each class, by name.
        problems: Problems, ordered by kind and place.
    """

    images: int = 0
    empty: int = 0
    most: int = 0
    classes: dict[str, ClassBoxes] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def inspect_boxes(config: InspectConfig) -> BoxInspection:
    """Look at every image of a data set, and at its boxes, on the cluster.

    Raises:
        UserError: A folder, list, class file or annotation cannot be used at all.
    """
    assert config.boxes is not None
    annotations = read_boxes(config.boxes)
    samples, problems = _pair(config, annotations)
    labels = sorted({box.label for sample in samples for box in sample.boxes})
    classes = load_classes(config.classes) if config.classes else Classes(names=tuple(labels)) if labels else None
    names = classes.names if classes else ()
    found = BoxInspection(len(samples), classes={name: ClassBoxes() for name in names})
    for sample in samples:
        for box in sample.boxes:
            if box.label not in names:
                place = annotations.place(sample.annotation, box)
                problems.append(Problem("class_unknown", place, f"'{box.label}' is not among the classes"))
    if samples:
        cluster.connect()
        known = [
            AnnotatedImage(s.key, s.image, s.annotation, [box for box in s.boxes if box.label in names])
            for s in samples
        ]
        chunks = [known[i : i + CHUNK] for i in range(0, len(known), CHUNK)]
        calls = [(chunk, names) for chunk in chunks]
        rows = cluster.map_tasks(_look_at_all, calls, sizes=[len(chunk) for chunk in chunks], title="reading")
        for chunk, looked in zip(chunks, rows, strict=True):
            for sample, row in zip(chunk, looked, strict=True):
                problems += _count(found, sample, row, names, annotations)
    if config.preview:
        storage.write_bytes(config.preview, _draw(samples, classes))
    found.problems = sorted(problems, key=lambda problem: (problem.kind, problem.where))
    if config.report:
        storage.write_bytes(config.report, json.dumps(asdict(found), indent=2).encode())
    return found


def _pair(config: InspectConfig, annotations: BoxAnnotations) -> tuple[list[AnnotatedImage], list[Problem]]:
    """Return the images that are annotated, and what has no counterpart."""
    urls = datasets.files_by_key(config.images)
    wanted = datasets.read_list(config.list) if config.list else sorted(urls)
    samples, problems, used = [], [], dict[str, str]()
    for key in wanted:
        other = annotations.find_key(key)
        if key not in urls:
            problems.append(Problem("listed_image_missing", key, "the list names it, and it is not there"))
        elif other is None:
            problems.append(Problem("image_not_annotated", key, "no annotation of this name"))
        elif used.setdefault(other, key) != key:
            problems.append(
                Problem("annotation_shared", key, f"the annotation '{other}' is also that of '{used[other]}'")
            )
        else:
            samples.append(AnnotatedImage(key, urls[key], other, annotations.by_key[other]))
    if not config.list:
        unused = sorted(annotations.by_key.keys() - used.keys())
        problems += [Problem("annotation_without_image", key, "no image of this name") for key in unused]
    return samples, problems


def _look_at_all(samples: list[AnnotatedImage], names: tuple[str, ...]) -> list[dict[str, Any]]:
    index = {name: i for i, name in enumerate(names)}
    return [look_at(sample, index, None) for sample in samples]


def _count(
    found: BoxInspection,
    sample: AnnotatedImage,
    row: dict[str, Any],
    names: Sequence[str],
    annotations: BoxAnnotations,
) -> list[Problem]:
    """Add the boxes of an image to what was found, and return its problems."""
    if "error" in row:
        return [Problem("unreadable_image", sample.image, row["error"])]
    boxes = np.array(row["boxes"]).reshape(-1, 4)
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    sizes = [next(name for name, limit in SIDES.items() if side < limit) for side in sides]
    for label, size in zip(row["labels"], sizes, strict=True):
        found.classes[names[label]].boxes += 1
        found.classes[names[label]].sizes[size] += 1
    for label in set(row["labels"]):
        found.classes[names[label]].images += 1
    found.empty += not row["labels"]
    found.most = max(found.most, len(row["labels"]))
    return [
        Problem(f"box_{kind}", annotations.place(sample.annotation, sample.boxes[number]), TEXTS[kind])
        for kind, number in zip(row["problems"], row["problem_boxes"], strict=True)
    ]


def _draw(samples: Sequence[AnnotatedImage], classes: Classes | None) -> bytes:
    """Draw the boxes, as annotated, on the first images that can be read.

    Raises:
        UserError: No image can be read.
    """
    from pipeline.training.detection.pictures import labelled  # PyTorch

    pictures = []
    for sample in samples:
        try:
            pixels, orientation = datasets.read_image(sample.image)
        except datasets.SampleError:
            continue
        known = [box for box in sample.boxes if classes and box.label in classes.names]
        boxes = []
        if classes and known:
            indices = np.array([classes.names.index(box.label) for box in known])
            boxes = labelled(np.array([box.corners for box in known]), indices, classes)
        pictures.append(BoxPicture(sample.key, images.from_upright(pixels, orientation), [boxes]))
        if len(pictures) == PREVIEWED:
            break
    if not pictures:
        raise UserError("--preview: no image can be read")
    return draw_box_sheet(pictures, ["boxes"])


def format_box_inspection(found: BoxInspection, *, show: int) -> str:
    """Format the boxes of each class, then up to `show` problems of each kind, then one line that sums up."""
    width = max(len("class"), *map(len, found.classes or [""]))
    lines = [f"{'class':<{width}}      boxes  in images" + "".join(f"{name:>8}" for name in SIDES)]
    for name, of_class in found.classes.items():
        sizes = "".join(f"{count / max(of_class.boxes, 1):8.1%}" for count in of_class.sizes.values())
        lines.append(f"{name:<{width}}  {of_class.boxes:9,}  {of_class.images:9,}{sizes}")
    lines += format_problems(found.problems, show=show)
    total = sum(of_class.boxes for of_class in found.classes.values())
    lines.append(
        f"\n{total:,} boxes in {found.images:,} images, {found.empty:,} of them without a box, at most {found.most:,} "
        f"in one: {summarise_problems(found.problems)}"
    )
    return "\n".join(lines)
