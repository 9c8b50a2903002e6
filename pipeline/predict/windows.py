"""Overlapping windows of a large image: where they lie, and how their score maps are blended.

Windows start at multiples of 32 pixels and of the output stride, so that every pooling of a network divides a window as
it divides the whole image. They are spread evenly. Where two windows overlap, one fades out while the other fades in,
over half of the option `overlap`, in the middle of the overlap:

    window 1   ────────────────────────┄┄┄╲
    window 2                        ╱┄┄┄────────────────────────
                            margin  fade  margin

The margins, a quarter of `overlap` or more, count nothing: there a window's scores suffer most from the missing
context beyond its border. If no unit of the score map depends on pixels further away than a margin, the result is that
of the whole image.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.data.preprocessing import Windows

GRID = 32  # the largest factor by which the networks here reduce an image, in pixels


class Span(NamedTuple):
    """The extent of a window along one axis, in units of the score map.

    Attributes:
        start: First unit of the window.
        stop: Unit after the last one.
        first: First unit that counts; the window fades in from here, except at the border of the image.
        end: First unit in which the window fades out; the end of the image for the last window. The windows'
            intervals from `first` to `end` follow each other without gaps.
        fade_in: Units over which the window fades in, from `first`.
        fade_out: Units over which the window fades out, from `end`.
    """

    start: int
    stop: int
    first: int
    end: int
    fade_in: int
    fade_out: int

    def weights(self, like: Tensor) -> Tensor:
        """Return the weight of each unit from `first` to `end + fade_out`, with the dtype and device of a tensor.

        The weights rise and fall as a raised cosine, and those of two overlapping windows add up to 1.
        """
        weights = like.new_ones(self.end + self.fade_out - self.first)
        weights[: self.fade_in] = _rise(self.fade_in, like)
        weights[len(weights) - self.fade_out :] = 1 - _rise(self.fade_out, like)
        return weights

    def pixels(self, stride: int) -> slice:
        """Return the pixels of the window; the slice may end beyond the image."""
        return slice(self.start * stride, self.stop * stride)


def _rise(count: int, like: Tensor) -> Tensor:
    at = (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / max(1, count)
    return (1 - torch.cos(math.pi * at)) / 2


def lay_out(length: int, options: Windows, *, stride: int) -> list[Span]:
    """Cover an axis of an image with windows.

    Args:
        length: Pixels of the axis.
        options: Size and overlap of the windows. A window is smaller only where the image is, or by less than the
            grid at the end of the image.
        stride: Output stride of the network.
    """
    grid = math.lcm(GRID, stride)
    size = -(-options.size // grid)
    overlap = options.overlap // grid
    last = max(0, -(-length // grid) - size)  # start of the last window
    steps = -(-last // (size - overlap))
    scale = grid // stride
    starts = [last * i // max(1, steps) * scale for i in range(steps + 1)]
    stops = [*(start + size * scale for start in starts[:-1]), -(-length // stride)]
    fade = overlap * scale // 2
    seams = [(start + stop - fade) // 2 for start, stop in zip(starts[1:], stops[:-1], strict=True)]
    return [
        Span(start, stop, first, end, fade if first else 0, fade if end < stops[-1] else 0)
        for start, stop, first, end in zip(starts, stops, [0, *seams], [*seams, stops[-1]], strict=True)
    ]


class Mosaic:
    """Blends the score maps of windows, which arrive row by row, and hands out each part once it is complete.

    It keeps the units in which the current row of windows fades out and one row of complete units: in all
    classes x (overlap / 2 / stride + 1) x width / stride values.

    Args:
        width: Units of the image's score map in a row.
    """

    _fading_below: Tensor  # [classes, fade_out, width] of the windows above that are to be continued
    _fading_right: Tensor  # [classes, height, fade_out] of the window on the left
    _above: Tensor  # [classes, 1, width], the last complete units above
    _left: Tensor  # [classes, height, 1], the last complete units on the left

    def __init__(self, *, width: int):
        self._width = width

    def add(self, row: Span, column: Span, scores: Tensor) -> Tensor:
        """Add a window, and return the part of the score map that it completes.

        Args:
            row: Vertical span of the window.
            column: Horizontal span of the window.
            scores: Its score map [classes, height, width].

        Returns:
            The blended scores from `first` to `end` of both spans. Where the image has units above and on the left,
            one of each precedes them, for the interpolation between parts.
        """
        if column.first == row.first == 0:
            self._fading_below = scores.new_empty(len(scores), row.fade_out, self._width)
            self._above = scores.new_empty(len(scores), 1, self._width)
        complete = self._blended(row, column, scores)
        own = slice(column.first, column.end)
        part = torch.cat([self._above[:, :, own], complete], dim=1) if row.first else complete
        self._above[:, :, own] = complete[:, -1:]
        part = torch.cat([self._left, part], dim=2) if column.first else part
        self._left = part[:, :, -1:].clone()
        return part

    def _blended(self, row: Span, column: Span, scores: Tensor) -> Tensor:
        rows = slice(row.first - row.start, row.end + row.fade_out - row.start)
        columns = slice(column.first - column.start, column.end + column.fade_out - column.start)
        weighted = scores[:, rows, columns] * row.weights(scores)[:, None] * column.weights(scores)
        if column.fade_in:
            weighted[:, :, : column.fade_in] += self._fading_right
        weighted, fading = weighted.split([column.end - column.first, column.fade_out], dim=2)
        self._fading_right = fading.clone()
        own = slice(column.first, column.end)
        if row.fade_in:
            weighted[:, : row.fade_in] += self._fading_below[:, :, own]
        complete, fading = weighted.split([row.end - row.first, row.fade_out], dim=1)
        if row.fade_out:
            self._fading_below[:, :, own] = fading
        return complete
