"""Weighted sums over short lists of rows, of which splat, blur and slice consist.

On a GPU a Triton kernel computes them (`fused`). Elsewhere, and where Triton does not work, PyTorch's `embedding_bag`
does, which is the oracle of that kernel too. Both read the rows where they lie and add a list in its order, in one
thread for each lane. So a sum is deterministic, it does not depend on the other images of the batch, and no list of
rows is ever copied.
"""

import functools
import sys
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.crf.gpu.lists import Lists
from pipeline.errors import one_line


def list_sums(values: Tensor, lists: Lists) -> Tensor:
    """Return the weighted sums over lists of rows; an empty list has the sum zero.

    Args:
        values: float32 [images, rows, lanes].
        lists: The lists, which are the same for all images.

    Returns:
        float32 [images, lists, lanes].
    """
    fused = _fused(values)
    if fused is not None:
        return fused.list_sums(values, lists)
    rows = torch.arange(values.shape[1], dtype=torch.int32, device=values.device) if lists.rows is None else lists.rows
    sums = F.embedding_bag(
        rows, _beside(values), lists.offsets, mode="sum", per_sample_weights=lists.weights, include_last_offset=True
    )
    return _apart(sums, len(values))


def row_sums(values: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sums over lists of one length.

    Args:
        values: float32 [images, rows, lanes].
        rows: int32 [lists, length], the rows of each list.
        weights: float32 [lists, length], their weights.

    Returns:
        float32 [images, lists, lanes].
    """
    fused = _fused(values)
    if fused is not None:
        return fused.row_sums(values, rows, weights)
    return _apart(F.embedding_bag(rows, _beside(values), mode="sum", per_sample_weights=weights), len(values))


def _beside(values: Tensor) -> Tensor:
    """Lay the images side by side, as further lanes, so that they share the lists."""
    return values.transpose(0, 1).reshape(values.shape[1], -1)


def _apart(sums: Tensor, images: int) -> Tensor:
    return sums.reshape(len(sums), images, -1).transpose(0, 1)


def _fused(values: Tensor) -> ModuleType | None:
    """Return the module of the Triton kernel if it works for some values."""
    return _working(values.device) if values.is_cuda else None


@functools.cache
def _working(device: torch.device) -> ModuleType | None:
    try:
        from pipeline.crf.gpu import fused

        rows = torch.zeros(1, 1, dtype=torch.int32, device=device)
        fused.row_sums(torch.ones(1, 1, 1, device=device), rows, torch.ones(1, 1, device=device))
    except Exception as error:  # Triton or a C compiler is missing, for example
        print(f"the dense CRF runs without its Triton kernel, which takes longer: {one_line(error)}", file=sys.stderr)
        return None
    return fused
