"""The images of a segmentation run that are worth a look, by the numbers in their rows."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.bulk.drawn import EACH, SEED

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset


class Numbers(NamedTuple):
    """Numbers of each image of a run, in the order of the plan; NaN where they are not defined.

    Attributes:
        is_ok: Whether the image has a mask.
        miou: Mean IoU over the classes in ground truth or mask.
        entropy: Mean entropy of the prediction.
        changed: Share of the pixels that the CRF changed.
    """

    is_ok: NDArray[np.bool_]
    miou: NDArray[np.float64]
    entropy: NDArray[np.float64]
    changed: NDArray[np.float64]


def read_numbers(images: "Dataset") -> Numbers:
    """Read the numbers of all images, a batch of rows at a time."""
    names = ("status", "tp", "gt", "pred", "mean_entropy", "crf_changed_px", "width", "height")
    columns = [name for name in names if name in images.schema.names]
    parts = [_numbers(batch) for batch in images.to_batches(columns=columns)]
    if not parts:
        return Numbers(np.zeros(0, bool), *(np.zeros(0) for _ in range(3)))
    return Numbers(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _numbers(batch: pa.RecordBatch) -> Numbers:
    unknown = np.full(batch.num_rows, np.nan)
    miou = image_mious(batch) if "tp" in batch.schema.names else unknown
    entropy = _floats(batch["mean_entropy"]) if "mean_entropy" in batch.schema.names else unknown
    changed = unknown
    if "crf_changed_px" in batch.schema.names:
        changed = _floats(batch["crf_changed_px"]) / (_floats(batch["width"]) * _floats(batch["height"]))
    return Numbers(np.asarray(pc.equal(batch["status"], "ok")).astype(bool), miou, entropy, changed)


def image_mious(batch: pa.RecordBatch) -> NDArray[np.float64]:
    """Return the mean IoU of each row over the classes in its ground truth or mask; NaN without ground truth."""
    mious = np.full(batch.num_rows, np.nan)
    known = np.asarray(pc.is_valid(batch["tp"])).astype(bool)
    if known.any():
        tp, gt, pred = (
            batch[name].flatten().to_numpy().astype(float).reshape(int(known.sum()), -1)
            for name in ("tp", "gt", "pred")
        )
        union = gt + pred - tp
        with np.errstate(invalid="ignore"):
            mious[known] = np.where(union > 0, tp / union, 0).sum(axis=1) / (union > 0).sum(axis=1)
    return mious


def _floats(column: pa.Array) -> NDArray[np.float64]:
    return pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)


def choose(numbers: Numbers, *, each: int = EACH) -> dict[str, list[int]]:
    """Return positions of images by group. An image is in one group only; groups without an image are left out."""
    chosen: dict[str, list[int]] = {}
    taken: set[int] = set()

    def take(group: str, positions: NDArray[np.intp]) -> None:
        fresh = [position for position in positions.tolist() if position not in taken][:each]
        taken.update(fresh)
        if fresh:
            chosen[group] = fresh

    rank = _ranked(numbers.miou)
    take("Worst mIoU", rank[: (len(rank) + 1) // 2])
    take("Best mIoU", rank[::-1][: len(rank) // 2])
    take("Most uncertain", _ranked(-numbers.entropy)[: 2 * each + each])
    changed = _ranked(-numbers.changed)
    take("Most changed by the CRF", changed[numbers.changed[changed] > 0][: 4 * each])
    positions = np.flatnonzero(numbers.is_ok)
    take("Random", np.random.default_rng(SEED).permutation(positions)[: 5 * each])
    return chosen


def _ranked(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the positions of the defined values, the smallest first."""
    known = np.flatnonzero(~np.isnan(values))
    return known[np.argsort(values[known], kind="stable")]
