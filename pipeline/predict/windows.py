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
from collections.abc import Iterator, Sequence
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


def blend(rows: Sequence[Span], columns: Sequence[Span], scores: Iterator[Tensor]) -> Iterator[tuple[Span, Span, Tensor]]:
    """Blend the score maps of windows, and hand out each part of the map as soon as it is complete.

    Besides the maps of the current windows, only the units in which the current row of windows fades out and one
    complete row of units are kept: classes x (overlap / 2 / stride + 1) x width / stride values.

    Args:
        rows: Vertical spans of the windows.
        columns: Horizontal spans of the windows.
        scores: The score map [classes, height, width] of each window, row by row.

    Yields:
        The spans of each window, and the complete scores from `first` to `end` of both, preceded by one unit above and
        one on the left, where there are any, for the interpolation between the parts.
    """
    width = columns[-1].end
    for row in rows:
        for column in columns:
            window = next(scores)
            if row is rows[0] and column is columns[0]:
                below = window.new_empty(len(window), row.fade_out, width)
                above = window.new_empty(len(window), 1, width)
            part = (
                window[
                    :,
                    row.first - row.start : row.end + row.fade_out - row.start,
                    column.first - column.start : column.end + column.fade_out - column.start,
                ]
                * row.weights(window)[:, None]
                * column.weights(window)
            )
            if column.fade_in:
                part[:, :, : column.fade_in] += beside
            part, beside = part.split([column.end - column.first, column.fade_out], dim=2)
            own = slice(column.first, column.end)
            if row.fade_in:
                part[:, : row.fade_in] += below[:, :, own]
            complete, fading = part.split([row.end - row.first, row.fade_out], dim=1)
            if row.fade_out:
                below[:, :, own] = fading
            block = torch.cat([above[:, :, own], complete], dim=1) if row.first else complete
            above[:, :, own] = complete[:, -1:]
            if column.first:
                block = torch.cat([left, block], dim=2)
            left = block[:, :, -1:].clone()
            yield row, column, block
