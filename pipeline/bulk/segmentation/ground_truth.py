"""Masks against label maps, image by image, as columns that add up."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import faults, storage
from pipeline.data.classes import Classes
from pipeline.data.images import ImageError, decode_raw_label
from pipeline.metrics.segmentation import Confusion, confusion

CONFUSION = pa.list_(pa.struct([("gt", pa.int16()), ("pred", pa.int16()), ("px", pa.int32())]))


def read_label(url: str, shape: tuple[int, ...], classes: Classes, *, max_pixels: int) -> NDArray | str:
    """Read a label map as class indices and ignore index, or say why it cannot be used.

    Args:
        url: The label map, drawn on the stored pixels.
        shape: Shape (height, width) of the image, which the label map must have.
        classes: Classes of the label map.
        max_pixels: Larger label maps are refused.
    """
    try:
        raw = decode_raw_label(storage.read_bytes(url), max_pixels=max_pixels)
    except ImageError as error:
        return str(error)
    except Exception as error:  # whatever a store raises belongs to this label map
        return faults.explain(error)
    if raw.shape != shape:
        sizes = ["x".join(map(str, size[::-1])) for size in (raw.shape, shape)]
        return f"the label map is {sizes[0]}, the image {sizes[1]}"
    return classes.index(raw)


def count(truth: NDArray, mask: NDArray, classes: Classes) -> Confusion:
    """Count the confusion of a mask with a label map, both [height, width] class indices."""
    return confusion(truth, mask, num_classes=len(classes), ignore_index=classes.ignore_index)


def ground_truth_columns(counts: Confusion) -> dict[str, Any]:
    """Return the counts of an image as columns, with the nonzero cells of the confusion matrix."""
    matrix = counts.matrix
    nonzero = zip(*np.nonzero(matrix), strict=True)
    return {
        "tp": np.diag(matrix).tolist(),
        "gt": matrix.sum(axis=1).tolist(),
        "pred": matrix.sum(axis=0).tolist(),
        "ignored_px": counts.ignored,
        "invalid_label_px": counts.invalid_label,
        "confusion": [{"gt": int(g), "pred": int(p), "px": int(matrix[g, p])} for g, p in nonzero],
    }
