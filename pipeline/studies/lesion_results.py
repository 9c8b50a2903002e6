"""What a lesion study measured: the errors of the variants, and the gradient along paths."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import binom

from pipeline.card import Card
from pipeline.studies.examples import Scorer
from pipeline.studies.lesion import Block
from pipeline.studies.variants import Lesion

PATHS = pa.schema(
    [
        ("length", pa.int64()),  # residual branches on the path
        ("share_of_paths", pa.float64()),  # binomial
        ("gradient", pa.float64()),  # mean norm at the images along one path
        ("share_of_gradient", pa.float64()),  # of the sum over all paths
    ]
)


class PathGradients(NamedTuple):
    """The gradient along single paths.

    Attributes:
        norms: Norm of the gradient at the images, [n + 1 lengths, draws].
    """

    norms: NDArray[np.float64]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row of `PATHS` for each length."""
        n = len(self.norms) - 1
        paths = binom.pmf(np.arange(n + 1), n, 0.5)
        mean = self.norms.mean(axis=1)
        total = float((paths * mean).sum()) or 1.0
        columns = zip(range(n + 1), paths.tolist(), mean.tolist(), (paths * mean / total).tolist(), strict=True)
        return [dict(zip(PATHS.names, values, strict=True)) for values in columns]


class Results(NamedTuple):
    """What a lesion study measured.

    Attributes:
        card: Card of the bundle.
        scorer: Scorer of the network.
        blocks: Blocks in the order of computation.
        lesions: The variants, the intact network first.
        images: Number of images that the counts are about.
        left_out: Why an image could not be used, for each such image.
        counts: Counts of each variant; None if it has none.
        problems: Why a variant has no counts.
        paths: Gradients along paths; None if they were not measured.
    """

    card: Card
    scorer: Scorer
    blocks: Sequence[Block]
    lesions: Sequence[Lesion]
    images: int
    left_out: Sequence[str]
    counts: Sequence[NDArray[np.int64] | None]
    problems: Sequence[str | None]
    paths: PathGradients | None

    @property
    def errors(self) -> NDArray[np.float64]:
        """Error of each variant; NaN if it has none."""
        return np.array([np.nan if counts is None else self.scorer.error(counts) for counts in self.counts])

    @property
    def chance(self) -> float:
        """Error of a network that knows nothing; NaN if the intact network has no counts."""
        return float("nan") if self.counts[0] is None else self.scorer.chance(self.counts[0])

    @property
    def damage(self) -> NDArray[np.float64]:
        """How far each variant is on the way from the intact network (0) to chance (1)."""
        errors = self.errors
        return (errors - errors[0]) / (self.chance - errors[0])

    def of_kind(self, kind: str) -> list[int]:
        """Return the positions of the variants of a kind that have an error."""
        return [i for i, lesion in enumerate(self.lesions) if lesion.kind == kind and self.counts[i] is not None]

    def hits_transition(self, i: int) -> bool:
        """Whether a variant lacks a block that changes the shape of the map."""
        return any(self.blocks[k].transition for k in self.lesions[i].variant.removed)


def means_by_k(results: Results, kind: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the numbers k of a kind's variants, in order, and the mean error of each."""
    by_k: dict[int, list[float]] = {}
    errors = results.errors
    for i in results.of_kind(kind):
        by_k.setdefault(results.lesions[i].k, []).append(float(errors[i]))
    ks = sorted(by_k)
    return np.array(ks, np.int64), np.array([np.mean(by_k[k]) for k in ks])
