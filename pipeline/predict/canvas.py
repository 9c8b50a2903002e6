"""The labels and the certainty of score maps, whole or in parts."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.upsampling import upsample
from pipeline.predict.device import NotFiniteError
from pipeline.predict.prediction import Prediction
from pipeline.predict.windows import Span


def certainty(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest softmax probability and the entropy at each unit of a map [batch, classes, h, w]."""
    log_p = torch.log_softmax(logits.float(), dim=1)
    p = log_p.exp()
    return p.amax(dim=1), -(p * log_p).sum(dim=1)


def check_finite(entropy: Tensor) -> None:
    """Refuse scores whose entropy is not finite, as it is if a score is NaN or infinite.

    Raises:
        NotFiniteError: An entropy is not finite.
    """
    if not bool(torch.isfinite(entropy).all()):
        raise NotFiniteError("the network's scores are not finite")


def labels_of(logits: Tensor, size: tuple[int, int], *, stride: int) -> Tensor:
    """Return the class with the largest interpolated score at each pixel, uint8 or uint16 [batch, height, width]."""
    logits = logits.float()  # interpolated bfloat16 scores are often equal, and the first of equal classes would win
    if logits.device.type == "cpu":  # whose argmax takes eight times as long if a pixel's scores are not side by side
        logits = logits.contiguous(memory_format=torch.channels_last)
    full = upsample(logits, size, stride=stride)
    return full.argmax(dim=1).to(torch.uint8 if logits.shape[1] <= 256 else torch.uint16)


def compact_scores(logits: Tensor) -> Tensor:
    """Return logits minus the largest one of each unit: this changes no softmax, and float16 is most precise near 0."""
    return (logits - logits.amax(dim=1, keepdim=True)).clamp(min=-1000).half()


class Canvas:
    """The prediction of an image whose score map arrives in parts.

    Args:
        size: (height, width) of the image.
        stride: Stride of the score map.
        keep_scores: Keep the score map as well.
    """

    def __init__(self, size: tuple[int, int], *, stride: int, keep_scores: bool):
        self._size = size
        self._units = tuple(-(-side // stride) for side in size)
        self._stride = stride
        self._keep_scores = keep_scores
        self._labels: NDArray | None = None
        self._scores: NDArray[np.float16] | None = None
        self._sums: Tensor | None = None

    def add(self, row: Span, column: Span, part: Tensor) -> None:
        """Add a part of the score map; see `windows.Mosaic.add`."""
        logits = part[None]
        own = logits[..., row.first - row.end :, column.first - column.end :]
        sums = torch.stack([values.sum(dtype=torch.float64) for values in certainty(own)])
        self._sums = sums if self._sums is None else self._sums + sums
        rows, top = _pixels(row, self._units[0], self._size[0], self._stride)
        columns, left = _pixels(column, self._units[1], self._size[1], self._stride)
        size = (top + rows.stop - rows.start, left + columns.stop - columns.start)
        labels = labels_of(logits, size, stride=self._stride)[0, top:, left:].cpu().numpy()
        if self._labels is None:
            self._labels = np.empty(self._size, labels.dtype)
        self._labels[rows, columns] = labels
        if self._keep_scores:
            if self._scores is None:
                self._scores = np.empty((len(part), *self._units), np.float16)
            self._scores[:, row.first : row.end, column.first : column.end] = compact_scores(own)[0].cpu().numpy()

    def prediction(self) -> Prediction:
        """Return the prediction, once all parts have been added.

        Raises:
            NotFiniteError: The scores are not finite.
        """
        assert self._labels is not None
        assert self._sums is not None
        check_finite(self._sums)
        confidence, entropy = (self._sums / (self._units[0] * self._units[1])).tolist()
        return Prediction(self._labels, confidence, entropy, self._scores, self._stride)


def _pixels(span: Span, units: int, length: int, stride: int) -> tuple[slice, int]:
    """Return the pixels whose labels a part decides along an axis, and the part's first pixels that it does not.

    These are the pixels between the centres of its first and last unit, between which scores are interpolated, and all
    pixels up to the border of the image.
    """
    before = (span.first - 1) * stride if span.first else 0  # first pixel of the part, with the unit before it
    start = before + stride // 2 if span.first else 0
    stop = length if span.end == units else (span.end - 1) * stride + stride // 2
    return slice(start, stop), start - before
