"""Training crops around objects, for networks that segment one object at a time.

DeconvNet (Noh, Hong & Han, "Learning Deconvolution Network for Semantic Segmentation", ICCV 2015, sections 4.2 and 5.1)
is trained in two stages. The first uses boxes around annotated objects, enlarged by 1.2, and labels everything but the
object's class as background. The second uses proposals that overlap an object with an IoU of at least 0.5, and keeps
all labels. Both resize the boxes to 250 x 250 and crop them to 224 x 224.

Label maps have no instances, so an object is a connected component of a class.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipeline.data.proposals import selective_search
from pipeline.data.transforms.config import Augmentation

CONTEXT = 1.2  # factor by which the box of an object is enlarged
MIN_IOU = 0.5  # of a proposal and the box of an object
MIN_PIXELS = 64  # smaller components are specks of the annotation

Corners = tuple[int, int, int, int]  # left, top, right, bottom


def focused(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int32],
    *,
    settings: Augmentation,
    ignore_index: int,
    fill: tuple[int, int, int],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Return a random object with its surroundings as a square image, or the whole image if it has no object.

    Args:
        pixels: Image, uint8 [height, width, 3].
        labels: Label map, int32 [height, width].
        settings: Only `focus`, `focus_size` and `background` are used.
        ignore_index: Label of pixels outside the image.
        fill: Colour of pixels outside the image.
        rng: The source of randomness.

    Returns:
        Pixels, uint8 [focus_size, focus_size, 3], and labels, int32 [focus_size, focus_size].
    """
    found = objects(labels, outside=(settings.background, ignore_index))
    if found:
        label, box = found[int(rng.integers(len(found)))]
        if settings.focus == "objects":
            labels = np.where((labels == label) | (labels == ignore_index), labels, settings.background)
            box = _enlarged(box)
        else:
            proposals = [b for b in selective_search(pixels).tolist() if _iou(b, box) >= MIN_IOU]
            box = tuple(proposals[int(rng.integers(len(proposals)))]) if proposals else _enlarged(box)
        pixels, labels = _cut(pixels, labels, box, fill, ignore_index)
    size = (settings.focus_size, settings.focus_size)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    label_map = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
    return np.asarray(image), np.asarray(label_map)


def objects(labels: NDArray[np.int32], *, outside: tuple[int, ...]) -> list[tuple[int, Corners]]:
    """Return the class and box of each connected component with at least `MIN_PIXELS` pixels.

    Args:
        labels: Label map, int32 [height, width].
        outside: Labels that are no objects.
    """
    found: list[tuple[int, Corners]] = []
    for label in np.unique(labels):
        if label in outside:
            continue
        components, count = ndimage.label(labels == label)
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        for i, (rows, columns) in enumerate(ndimage.find_objects(components), start=1):
            if sizes[i] >= MIN_PIXELS:
                found.append((int(label), (columns.start, rows.start, columns.stop, rows.stop)))
    return found


def _enlarged(box: Corners) -> Corners:
    left, top, right, bottom = box
    x, y = round((CONTEXT - 1) / 2 * (right - left)), round((CONTEXT - 1) / 2 * (bottom - top))
    return left - x, top - y, right + x, bottom + y


def _iou(a: list[int], b: Corners) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return intersection / (sum(areas) - intersection)


def _cut(
    pixels: NDArray[np.uint8], labels: NDArray[np.int32], box: Corners, fill: tuple[int, int, int], ignore_index: int
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Cut a box out of image and labels, with `fill` and `ignore_index` outside of them."""
    left, top, right, bottom = box
    out_pixels = np.empty((bottom - top, right - left, 3), np.uint8)
    out_pixels[:] = fill
    out_labels = np.full((bottom - top, right - left), ignore_index, np.int32)
    height, width = labels.shape
    rows, columns = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    target = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    out_pixels[target], out_labels[target] = pixels[rows, columns], labels[rows, columns]
    return out_pixels, out_labels
