"""Training crops around objects, for a network that looks at one object at a time.

Noh, Hong & Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015, sections 4.2 and 5.1: first on
boxes around annotated objects, enlarged by 1.2, with all but the object's class as background; then on proposals that
overlap an object by IoU 0.5 and more, with all labels. Both are resized to 250 x 250 and cropped to 224.

Label maps have no instances, so an object is a connected part of a class.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipeline.data.proposals import selective_search
from pipeline.data.transforms.config import Augmentation

CONTEXT = 1.2
OVERLAP = 0.5
MIN_PIXELS = 64  # smaller parts are specks of the annotation

Box = tuple[int, int, int, int]  # left, top, right, bottom


def focused(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int32],
    *,
    settings: Augmentation,
    ignore_index: int,
    fill: tuple[int, int, int],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """A random object with its surroundings as a square image; the whole image where there is no object.

    Args:
        pixels: uint8 [height, width, 3].
        labels: int32 [height, width].
        settings: `focus`, `focus_size` and `background` count.
        ignore_index: label of what lies outside of the image.
        fill: its colour.
        rng: the source of randomness.
    """
    found = objects(labels, outside=(settings.background, ignore_index))
    if found:
        label, box = found[int(rng.integers(len(found)))]
        if settings.focus == "objects":
            labels = np.where((labels == label) | (labels == ignore_index), labels, settings.background)
            box = _enlarged(box)
        else:
            proposals = [b for b in selective_search(pixels).tolist() if _iou(b, box) >= OVERLAP]
            box = tuple(proposals[int(rng.integers(len(proposals)))]) if proposals else _enlarged(box)
        pixels, labels = _cut(pixels, labels, box, fill, ignore_index)
    size = (settings.focus_size, settings.focus_size)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    label_map = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
    return np.asarray(image), np.asarray(label_map)


def objects(labels: NDArray[np.int32], *, outside: tuple[int, ...]) -> list[tuple[int, Box]]:
    """The connected parts of classes: class and box of each.

    Args:
        labels: int32 [height, width].
        outside: labels that are no objects.
    """
    found: list[tuple[int, Box]] = []
    for label in np.unique(labels):
        if label in outside:
            continue
        parts, count = ndimage.label(labels == label)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        for part, place in enumerate(ndimage.find_objects(parts), start=1):
            if sizes[part] >= MIN_PIXELS:
                rows, columns = place
                found.append((int(label), (columns.start, rows.start, columns.stop, rows.stop)))
    return found


def _enlarged(box: Box) -> Box:
    left, top, right, bottom = box
    x, y = round((CONTEXT - 1) / 2 * (right - left)), round((CONTEXT - 1) / 2 * (bottom - top))
    return left - x, top - y, right + x, bottom + y


def _iou(a: list[int], b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)


def _cut(
    pixels: NDArray[np.uint8], labels: NDArray[np.int32], box: Box, fill: tuple[int, int, int], ignore_index: int
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The box of image and labels; what lies outside of them is `fill` and `ignore_index`."""
    left, top, right, bottom = box
    out_pixels = np.empty((bottom - top, right - left, 3), np.uint8)
    out_pixels[:] = fill
    out_labels = np.full((bottom - top, right - left), ignore_index, np.int32)
    height, width = labels.shape
    rows, columns = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    target = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    out_pixels[target], out_labels[target] = pixels[rows, columns], labels[rows, columns]
    return out_pixels, out_labels
