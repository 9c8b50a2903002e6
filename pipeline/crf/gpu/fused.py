"""The Triton kernels of `sums`: a program adds a tile of lists, all lanes of which lie in its registers."""

import triton
import triton.language as tl
from torch import Tensor

from pipeline.crf.gpu.lists import Lists

TILE = 1024  # sums of a program


def list_sums(values: Tensor, lists: Lists) -> Tensor:
    """See `sums.list_sums`."""
    values = values.contiguous()
    images, rows, lanes = values.shape
    result = values.new_empty(images, len(lists.order), lanes)
    width, tile = _tile(lanes)
    _list_sums[(triton.cdiv(len(lists.order), tile), images)](
        values, lists.rows, lists.weights, lists.offsets, lists.order, result, rows, len(lists.order),
        LANES=lanes, WIDTH=width, LISTS=tile,
    )  # fmt: skip
    return result


def row_sums(values: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """See `sums.row_sums`."""
    values = values.contiguous()
    lists, length = rows.shape
    images, _, lanes = values.shape
    result = values.new_empty(images, lists, lanes)
    width, tile = _tile(lanes)
    _row_sums[(triton.cdiv(lists, tile), images)](
        values, rows, weights, result, values.shape[1], lists, LENGTH=length, LANES=lanes, WIDTH=width, LISTS=tile
    )
    return result


def _tile(lanes: int) -> tuple[int, int]:
    """Return the lanes of a tile, a power of two, and its lists."""
    width = triton.next_power_of_2(lanes)
    return width, max(1, TILE // width)


@triton.jit
def _list_sums(  # type: ignore[no-untyped-def]
    values, rows, weights, offsets, order, result, count, lists,
    LANES: tl.constexpr, WIDTH: tl.constexpr, LISTS: tl.constexpr,
):  # fmt: skip
    """Add a tile of `Lists`, in their order; the other arguments are those of `sums.list_sums`."""
    place = tl.program_id(0) * LISTS + tl.arange(0, LISTS)
    image = tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, WIDTH)
    valid = place < lists
    number = tl.load(order + place, mask=valid, other=0)
    entry = tl.load(offsets + number, mask=valid, other=0)
    end = tl.load(offsets + number + 1, mask=valid, other=0)
    values += image * count * LANES
    total = tl.zeros((LISTS, WIDTH), tl.float32)
    for _ in range(tl.max(end - entry, axis=0)):
        more = entry < end
        row = entry if rows is None else tl.load(rows + entry, mask=more, other=0)
        mask = more[:, None] & (lane < LANES)[None, :]
        term = tl.load(values + row.to(tl.int64)[:, None] * LANES + lane[None, :], mask=mask, other=0.0)
        if weights is not None:
            term *= tl.load(weights + entry, mask=more, other=0.0)[:, None]
        total += term
        entry += 1
    cells = (image * lists + number)[:, None] * LANES + lane[None, :]
    tl.store(result + cells, total, mask=valid[:, None] & (lane < LANES)[None, :])


@triton.jit
def _row_sums(  # type: ignore[no-untyped-def]
    values, rows, weights, result, count, lists,
    LENGTH: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr, LISTS: tl.constexpr,
):  # fmt: skip
    """Add a tile of lists of one length; the other arguments are those of `sums.row_sums`."""
    number = tl.program_id(0) * LISTS + tl.arange(0, LISTS)
    image = tl.program_id(1).to(tl.int64)
    lane = tl.arange(0, WIDTH)
    valid = number < lists
    mask = valid[:, None] & (lane < LANES)[None, :]
    values += image * count * LANES
    total = tl.zeros((LISTS, WIDTH), tl.float32)
    for i in tl.static_range(LENGTH):
        row = tl.load(rows + number * LENGTH + i, mask=valid, other=0).to(tl.int64)
        weight = tl.load(weights + number * LENGTH + i, mask=valid, other=0.0)
        total += weight[:, None] * tl.load(values + row[:, None] * LANES + lane[None, :], mask=mask, other=0.0)
    tl.store(result + (image * lists + number)[:, None] * LANES + lane[None, :], total, mask=mask)
