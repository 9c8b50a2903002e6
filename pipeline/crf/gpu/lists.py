"""Lists of rows of different lengths, whose weighted sums `sums` computes."""

from typing import NamedTuple

from torch import Tensor


class Lists(NamedTuple):
    """Lists of rows, one after the other.

    Attributes:
        rows: int32 [entries], the rows of all lists; None for 0, 1, 2, …
        weights: float32 [entries], weights of the rows; None for 1.
        offsets: int32 [lists + 1], first entry of each list, and the end.
        order: int32 [lists], the lists by descending length: a GPU computes lists of similar length together.
    """

    rows: Tensor | None
    weights: Tensor | None
    offsets: Tensor
    order: Tensor


def by_length(offsets: Tensor) -> Tensor:
    """Return the numbers of lists by descending length, int32; see `Lists`."""
    return offsets.diff().argsort(descending=True, stable=True).int()
