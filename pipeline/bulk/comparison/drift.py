"""Drift of the classes between two sets of images without labels, by a stated statistical test."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05  # probability of flagging any class if nothing has changed
FEWEST = 20  # images of a set
TEST = (
    "Each class is tested by the two-sided Mann–Whitney U test (normal approximation, corrected for ties) on how much "
    "of it each image shows; the p-values are corrected for the number of classes by Holm's method. A class is "
    f"flagged below {LEVEL:g}: if nothing has changed, the chance of any flag is about {LEVEL:.0%} or "
    "less. The effect is Cliff's delta: the chance that an image of the later run shows more of the class than one of "
    "the earlier run, minus the chance that it shows less; from 0.147, 0.33 and 0.474 on, it is called small, medium "
    "and large. The test takes images as independent; frames of one video are not, and are flagged too often."
)
EFFECTS = ((0.474, "large"), (0.33, "medium"), (0.147, "small"), (0.0, "negligible"))  # Romano et al. 2006


class Drift(NamedTuple):
    """How a class differs between two sets of images.

    Attributes:
        earlier: Mean over the images of the earlier set.
        later: Mean over the images of the later set.
        delta: Cliff's delta, -1..1; positive if the later images show more.
        p: p-value of the test; None for a class that no image shows, which is not tested.
        adjusted: p-value after Holm's correction.
    """

    earlier: float
    later: float
    delta: float
    p: float | None
    adjusted: float | None

    @property
    def is_flagged(self) -> bool:
        """Whether the class has drifted, by the test."""
        return self.adjusted is not None and self.adjusted < LEVEL

    @property
    def effect(self) -> str:
        """Size of the difference in words."""
        return next(name for least, name in EFFECTS if abs(self.delta) >= least)


def class_drift(earlier: NDArray[np.floating], later: NDArray[np.floating]) -> list[Drift]:
    """Test each class.

    Args:
        earlier: Amount of each class in each image, [images, classes].
        later: The same of the other set, [other images, classes].
    """
    from scipy.stats import mannwhitneyu  # here, because only this page needs SciPy

    pairs = len(earlier) * len(later)
    p_values: list[float | None] = []
    deltas: list[float] = []
    for a, b in zip(earlier.T, later.T, strict=True):
        if a.min() == a.max() == b.min() == b.max():
            shown = a.max() != 0  # the same amount in every image
            p_values.append(1.0 if shown else None)
            deltas.append(0.0)
            continue
        found = mannwhitneyu(b, a, alternative="two-sided", method="asymptotic")
        p_values.append(float(found.pvalue))
        deltas.append(2 * float(found.statistic) / pairs - 1)
    adjusted = holm(p_values)
    means = zip(earlier.mean(axis=0).tolist(), later.mean(axis=0).tolist(), strict=True)
    return [
        Drift(a, b, delta, p, corrected)
        for (a, b), delta, p, corrected in zip(means, deltas, p_values, adjusted, strict=True)
    ]


def holm(p_values: list[float | None]) -> list[float | None]:
    """Return p-values corrected for their number (Holm, Scandinavian Journal of Statistics 1979); None stays None."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[i] = largest
    return adjusted
