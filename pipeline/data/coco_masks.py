"""Label maps from the segmentations of a COCO file: polygons, and run lengths in both of COCO's forms."""

import json
import posixpath
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline import storage
from pipeline.data.classes import Classes
from pipeline.data.coco_config import LabelMapsConfig
from pipeline.data.image_ids import named_id
from pipeline.data.images import MAX_PIXELS, encode_mask
from pipeline.errors import UserError, first_problem
from pipeline.progress import Progress
from pipeline.threads import in_order

IGNORE_INDEX = 255


class _Image(NamedTuple):
    """An image of a COCO file with its annotations."""

    name: str
    height: int
    width: int
    annotations: list[dict[str, Any]]


def write_label_maps(config: LabelMapsConfig) -> tuple[int, Classes]:
    """Write the label map of each image, and the class file.

    Returns:
        Number of label maps, and their classes.

    Raises:
        UserError: The file is no COCO file, or an annotation of it cannot be used.
    """
    place = storage.redact(config.annotations)
    images, names = _read(config.annotations)
    background = config.unlabelled == "background"
    classes = _classes([*(["background"] if background else []), *names.values()], place)
    index = {category: k + background for k, category in enumerate(names)}
    palette = np.full((IGNORE_INDEX + 1, 3), 255, np.uint8)
    palette[: len(classes)] = classes.palette
    storage.check_writable(config.output)

    def write(image: _Image) -> None:
        labels = np.full((image.height, image.width), 0 if background else IGNORE_INDEX, np.uint8)
        for annotation, mask in _masks(image, place):
            labels[mask] = index[annotation["category_id"]]
        url = storage.join(config.output, "labels", _stem(image.name) + ".png")
        with storage.friendly_errors(url, "cannot write"):
            storage.write_bytes(url, encode_mask(labels, palette))

    with Progress(total=len(images), title="painting", delay=1) as progress:
        for _ in in_order(write, images):
            progress.update(1)
    content = {"names": list(classes.names), "colours": classes.palette.tolist(), "ignore_index": IGNORE_INDEX}
    storage.write_bytes(
        storage.join(config.output, "classes.yaml"),
        yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode(),
    )
    return len(images), classes


def _stem(name: str) -> str:
    return posixpath.splitext(named_id(name))[0]


def _read(url: str) -> tuple[list[_Image], dict[int, str]]:
    """Return the images of a COCO file, and the names of its categories by id.

    Raises:
        UserError: It is no COCO file, names an image twice, or an annotation names an image or category it lacks.
    """
    place = storage.redact(url)
    try:
        content = json.loads(storage.read_text(url, noun="COCO file"))
        images = {
            image["id"]: _Image(str(image["file_name"]), int(image["height"]), int(image["width"]), [])
            for image in content["images"]
        }
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        rows = [(row, row["image_id"], row["category_id"]) for row in content["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place}: no COCO file ({type(error).__name__}: {error})") from None
    for row, image, category in rows:
        if image not in images or category not in names:
            raise UserError(f"{place}, annotation {row.get('id')}: its image or category is not in the file")
        images[image].annotations.append(row)
    stems = defaultdict(list)
    for one in images.values():
        stems[_stem(one.name)].append(one.name)
        if not 0 < one.height * one.width <= MAX_PIXELS or min(one.height, one.width) < 1:
            raise UserError(f"{place}, image {one.name}: {one.width}x{one.height} is no size of an image")
    twice = next((names for names in stems.values() if len(names) > 1), None)
    if twice:
        raise UserError(f"{place}: the images {twice[0]} and {twice[1]} would have the same label map; rename one")
    if not images:
        raise UserError(f"{place}: holds no image")
    return list(images.values()), names


def _classes(names: list[str], place: str) -> Classes:
    from pydantic import ValidationError

    if len(names) > IGNORE_INDEX:
        raise UserError(f"{place}: label maps have 8 bits, at most {IGNORE_INDEX} classes, and there are {len(names)}")
    try:
        return Classes(names=tuple(names))
    except ValidationError as error:
        raise UserError(f"{place}, categories: {first_problem(error)}") from None


def _masks(image: _Image, place: str) -> list[tuple[dict[str, Any], NDArray[np.bool_]]]:
    """Return the annotations of an image with their masks, the largest first."""
    found = []
    for annotation in image.annotations:
        try:
            mask = decode_segmentation(annotation["segmentation"], image.height, image.width)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            raise UserError(
                f"{place}, annotation {annotation.get('id')}: its segmentation is neither polygons nor run lengths of "
                f"an image of {image.width}x{image.height} pixels ({type(error).__name__}: {error})"
            ) from None
        found.append((annotation, mask))
    return sorted(found, key=lambda one: -int(np.count_nonzero(one[1])))


def decode_segmentation(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask of a COCO segmentation, bool [height, width].

    Args:
        segmentation: Polygons ([[x, y, …], …]), or run lengths ({"size": …, "counts": list or compressed text}).
        height: Height of the image.
        width: Its width.

    Raises:
        ValueError: It is neither, or does not fit the size.
    """
    if isinstance(segmentation, list):
        mask = np.zeros((height, width), bool)
        for polygon in segmentation:
            mask |= polygon_mask(np.asarray(polygon, float).reshape(-1, 2), height, width)
        return mask
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"its size is {segmentation['size']}")
    counts = segmentation["counts"]
    lengths = uncompressed(counts) if isinstance(counts, str) else [int(count) for count in counts]
    if min(lengths, default=0) < 0 or sum(lengths) != height * width:
        raise ValueError(f"the run lengths sum up to {sum(lengths)}")
    flat = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(bool)
    return flat.reshape(width, height).T


def uncompressed(text: str) -> list[int]:
    """Return the run lengths of COCO's compressed text; see `export.rle.coco_counts`."""
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise ValueError(f"the text holds '{character}'")
        value |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    return lengths


def polygon_mask(corners: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels whose centres lie in a polygon, by the rule of odd and even crossings.

    Args:
        corners: Corners (x, y), float64 [corners, 2], in pixels; the first pixel reaches from 0 to 1.
        height: Height of the image.
        width: Its width.
    """
    if len(corners) < 3 or not np.isfinite(corners).all():
        raise ValueError("a polygon needs three finite corners")
    crossings = np.zeros((height, width + 1), np.int32)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        # The rows whose centres r + 0.5 the edge crosses, and the first column whose centre is to its right.
        first, last = np.clip(np.ceil(np.array([min(y0, y1), max(y0, y1)]) - 0.5), 0, height).astype(int)
        rows = np.arange(first, last)
        x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
        columns = np.clip(np.ceil(x - 0.5), 0, width).astype(int)
        crossings[rows, columns] += 1
    return np.cumsum(crossings[:, :width], axis=1) % 2 == 1
