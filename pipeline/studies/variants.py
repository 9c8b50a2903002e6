"""The variants of a network that a lesion study computes: single blocks, several blocks, and other orders."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import kendalltau

from pipeline.studies.lesion import Block, Variant


class Lesion(NamedTuple):
    """A variant and what it is a sample of.

    Attributes:
        kind: "intact", "single" (one block removed), "several" (k blocks removed) or "shuffled" (k pairs swapped).
        variant: The variant.
        k: Number of removed blocks or swapped pairs.
        tau: Kendall's rank correlation of the order of the blocks with their own order; 1 for the own order.
    """

    kind: str
    variant: Variant
    k: int
    tau: float


def list_lesions(
    blocks: Sequence[Block], *, counts: Sequence[int], swaps: Sequence[int], draws: int, seed: int
) -> list[Lesion]:
    """Return the intact network, each block alone, and random draws of several blocks and of other orders.

    Args:
        blocks: Blocks in the order of computation.
        counts: Numbers of blocks to remove; those above the number of blocks are left out.
        swaps: Numbers of pairs to swap one after the other. A pair has the same shapes, and changes no shape.
        draws: Number of draws of each count.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    n = len(blocks)
    lesions = [Lesion("intact", Variant(), 0, 1.0)]
    lesions += [Lesion("single", Variant(removed=frozenset({i})), 1, 1.0) for i in range(n)]
    for k in counts:
        if k <= n:
            removed = (frozenset(rng.choice(n, k, replace=False).tolist()) for _ in range(draws))
            lesions += [Lesion("several", Variant(removed=some), k, 1.0) for some in removed]
    places = _interchangeable(blocks)
    for k in swaps if places else ():
        for _ in range(draws):
            order = _swapped(n, places, k, rng)
            tau = float(kendalltau(range(n), order).statistic)
            lesions.append(Lesion("shuffled", Variant(order=order), k, tau))
    return lesions


def _interchangeable(blocks: Sequence[Block]) -> list[list[int]]:
    """Return the positions of blocks that can change places, in a list for each shape; two or more in each."""
    by_shape: dict[object, list[int]] = {}
    for i, block in enumerate(blocks):
        if not block.transition:
            by_shape.setdefault(block.shape, []).append(i)
    return [positions for positions in by_shape.values() if len(positions) > 1]


def _swapped(n: int, places: Sequence[Sequence[int]], k: int, rng: np.random.Generator) -> tuple[int, ...]:
    order = list(range(n))
    pairs = np.array([len(positions) * (len(positions) - 1) // 2 for positions in places])
    for _ in range(k):
        positions = places[int(rng.choice(len(places), p=pairs / pairs.sum()))]
        i, j = rng.choice(positions, 2, replace=False).tolist()
        order[i], order[j] = order[j], order[i]
    return tuple(order)
