"""A look at every image before training: its size, its boxes within it, and its proposals. Imports no PyTorch.

Selective search takes a second for an image, so its boxes are stored in the run's output, in parts of a few images:

    OUTPUT/survey/train/part-00000.parquet

A part knows the images, boxes and options that it was made from (`digest`). A resumed run makes only the parts that are
missing or were made from something else.
"""

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import cluster, parquet, storage
from pipeline.data import images
from pipeline.data.box_annotations import PROBLEMS, usable_boxes
from pipeline.data.datasets import SampleError, read_image
from pipeline.data.preprocessing import ProposalOptions
from pipeline.threads import in_order
from pipeline.training.detection.annotated_images import AnnotatedImage, AnnotatedSplit

FOLDER = "survey"
PART = 16  # images of a part: some seconds of selective search, which are lost if the run is killed
DIGEST = b"digest"

# Boxes are in pixels of the upright image, flat, four numbers each.
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("image", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("boxes", pa.list_(pa.float32())),
        pa.field("labels", pa.list_(pa.int32())),
        pa.field("difficult", pa.list_(pa.bool_())),
        pa.field("crowd", pa.list_(pa.bool_())),
        pa.field("proposals", pa.list_(pa.float32())),
        pa.field("problems", pa.list_(pa.string())),
        pa.field("problem_boxes", pa.list_(pa.int32())),  # positions among the boxes as annotated
        pa.field("error", pa.string()),
    ]
)


class SurveyedImage(NamedTuple):
    """An image of a survey.

    Attributes:
        key: Path of the image below its root, without suffix.
        image: Its URL.
        size: (height, width) of the upright image.
        boxes: Boxes of objects, float32 [n, 4].
        labels: Their classes, int64 [n].
        difficult: Whether they need not be found, bool [n].
        crowd: Whether they are regions of many objects, bool [n].
        proposals: Proposals, float32 [m, 4].
        error: The reason why the image cannot be used, or None.
    """

    key: str
    image: str
    size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    proposals: NDArray[np.float32]
    error: str | None


def surveyed(table: pa.Table, index: int) -> SurveyedImage:
    """Return a row of a survey."""

    def values(name: str) -> NDArray:
        return table[name][index].values.to_numpy(zero_copy_only=False)

    return SurveyedImage(
        key=table["key"][index].as_py(),
        image=table["image"][index].as_py(),
        size=(table["height"][index].as_py(), table["width"][index].as_py()),
        boxes=values("boxes").reshape(-1, 4),
        labels=values("labels").astype(np.int64),
        difficult=values("difficult"),
        crowd=values("crowd"),
        proposals=values("proposals").reshape(-1, 4).copy(),  # PyTorch wants to be able to write
        error=table["error"][index].as_py(),
    )


def survey(
    split: AnnotatedSplit, *, names: tuple[str, ...], output: str, proposals: ProposalOptions | None
) -> pa.Table:
    """Look at all images of a split in tasks of the cluster; parts that are stored are read.

    Args:
        split: The images.
        names: Names of the classes, among which are those of the boxes.
        output: Folder of the run.
        proposals: Options of selective search; None for no proposals.

    Returns:
        A row for each image, in their order; see `SCHEMA`.
    """
    folder = storage.join(output, FOLDER, split.name)
    parts = [split.images[i : i + PART] for i in range(0, len(split.images), PART)]
    urls = [storage.join(folder, f"part-{i:05}.parquet") for i in range(len(parts))]
    digests = [_digest(part, names, proposals) for part in parts]
    tables: list[pa.Table | None] = list(in_order(lambda pair: _stored(*pair), zip(urls, digests, strict=True)))
    missing = [i for i, table in enumerate(tables) if table is None]
    calls = [(urls[i], digests[i], parts[i], names, proposals) for i in missing]
    title = f"{split.name}: {'proposals' if proposals else 'boxes'}"
    made = cluster.map_tasks(_make_part, calls, sizes=[len(parts[i]) for i in missing], title=title)
    for i, table in zip(missing, made, strict=True):
        tables[i] = table
    names_of_parts = {posixpath.basename(url) for url in urls}
    for file in storage.list_files(folder):  # perhaps of a run that was interrupted when there were more images
        name = posixpath.basename(file.path)
        if name not in names_of_parts:
            storage.remove(storage.join(folder, name))
    return pa.concat_tables(tables)


def read_survey(output: str, name: str) -> pa.Table:
    """Read the survey of a split that `survey` has stored."""
    folder = storage.join(output, FOLDER, name)
    fs, _ = storage.filesystem(folder)
    urls = sorted(storage.url_of(fs, file.path) for file in storage.list_files(folder))
    return pa.concat_tables(in_order(parquet.read_table, urls))


def _digest(part: Sequence[AnnotatedImage], names: tuple[str, ...], proposals: ProposalOptions | None) -> str:
    content = [[image.key, image.image, image.boxes] for image in part]
    options = proposals.model_dump() if proposals else None
    return hashlib.sha256(json.dumps([content, names, options]).encode()).hexdigest()


def _stored(url: str, digest: str) -> pa.Table | None:
    """Return a stored part that was made from the same images, boxes and options, or None."""
    if not storage.exists(url):
        return None
    table = parquet.read_table(url)
    return table if (table.schema.metadata or {}).get(DIGEST) == digest.encode() else None


def _make_part(
    url: str, digest: str, part: list[AnnotatedImage], names: tuple[str, ...], proposals: ProposalOptions | None
) -> pa.Table:
    """Look at the images of a part, and store and return their rows."""
    index = {name: i for i, name in enumerate(names)}
    rows = [look_at(image, index, proposals) for image in part]
    table = pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({DIGEST: digest}))
    parquet.write_table(url, table)
    return table


def look_at(sample: AnnotatedImage, index: dict[str, int], proposals: ProposalOptions | None) -> dict[str, Any]:
    """Return the row of an image; see `SCHEMA`.

    Args:
        sample: The image and its boxes.
        index: Index of each class name.
        proposals: Options of selective search; None for no proposals.
    """
    row: dict[str, Any] = {"key": sample.key, "image": sample.image, "height": 0, "width": 0}
    row |= {name: [] for name in ("boxes", "labels", "difficult", "crowd", "proposals", "problems", "problem_boxes")}
    try:
        pixels, orientation = read_image(sample.image)
    except SampleError as error:
        return row | {"error": str(error)}
    height, width = pixels.shape[:2]
    stored_height, stored_width = images.from_upright(pixels, orientation).shape[:2]
    boxes, problems = usable_boxes(sample.boxes, height=stored_height, width=stored_width)
    corners = np.array([box.corners for box in boxes], np.float32).reshape(-1, 4)
    if proposals is not None:
        from pipeline.data.proposals import propose  # OpenCV

        row["proposals"] = propose(pixels, proposals).ravel()
    return row | {
        "height": height,
        "width": width,
        "boxes": images.boxes_to_upright(corners, orientation, height=height, width=width).ravel(),
        "labels": [index[box.label] for box in boxes],
        "difficult": [box.difficult for box in boxes],
        "crowd": [box.crowd for box in boxes],
        "problems": [problem for problem, _ in problems],
        "problem_boxes": [sample.boxes.index(box) for _, box in problems],
    }


def format_problems(split: AnnotatedSplit, table: pa.Table) -> list[str]:
    """Return a line for each kind of problem of a survey, with the first box that has it."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for image, kinds, boxes in zip(
        split.images, table["problems"].to_pylist(), table["problem_boxes"].to_pylist(), strict=True
    ):
        for kind, number in zip(kinds, boxes, strict=True):
            counts[kind] += 1
            first.setdefault(kind, split.annotations.place(image.annotation, image.boxes[number]))
    return [
        f"{split.name}: {counts[kind]} boxes {text}, the first: {first[kind]}"
        for kind, text in PROBLEMS.items()
        if counts[kind]
    ]
