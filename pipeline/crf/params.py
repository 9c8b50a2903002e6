"""The parameters of a dense CRF."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Normalisation = Literal["symmetric", "before", "after", "none"]

# exact: the mean field of all classes. pruned: classes that do not win go on as one. fast: that, and parts of the image
# that are settled beforehand are seen in squares of 2x2 and 4x4 pixels, which get one result; see `pruning`. With a
# matrix of compatibility, and on images of under 32 pixels, all three are exact. In all of them steps leave out pixels
# that have settled; see `mean_field.Settling`.
Mode = Literal["exact", "pruned", "fast"]


class CRFParams(BaseModel):
    """E(x) = sum_i -log P(x_i) + sum_{i<j} [x_i != x_j] ( w1 exp(-|p_i-p_j|²/2 sα² - |I_i-I_j|²/2 sβ²)
                                                         + w2 exp(-|p_i-p_j|²/2 sγ²) )

    over all pairs of pixels (Krähenbühl & Koltun, NIPS 2011), with the DeepLab paper's names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    w1: float = Field(default=4.0, ge=0, allow_inf_nan=False, description="weight of the bilateral kernel")
    sigma_alpha: float = Field(default=67.0, gt=0, allow_inf_nan=False, description="its width in pixels")
    sigma_beta: float = Field(default=3.0, gt=0, allow_inf_nan=False, description="its width in grey levels (0..255)")
    w2: float = Field(default=3.0, ge=0, allow_inf_nan=False, description="weight of the Gaussian kernel")
    sigma_gamma: float = Field(default=3.0, gt=0, allow_inf_nan=False, description="its width in pixels")
    steps: int = Field(default=10, ge=0, description="mean-field steps; 0 leaves the probabilities as they are")
    compatibility: tuple[float, ...] | tuple[tuple[float, ...], ...] | None = Field(
        default=None,
        description="of labels, times w1 and w2: nothing (Potts: 1 for labels that differ), a factor for each class, "
        "or a matrix of penalties [class][class of the other pixel]",
    )
    normalisation: Normalisation = Field(
        default="symmetric", description="of the kernels, by their sum before filtering, after it, half each, or not"
    )
    stop_below: float = Field(
        default=0.0, ge=0, lt=1, description="stop once a step changes the labels of a smaller share of the pixels"
    )

    def label_compatibility(self, classes: int) -> NDArray[np.float32] | None:
        """float32 [classes] factors or [classes, classes] penalties, or None for Potts.

        Raises:
            ValueError: where there are not as many numbers as classes.
        """
        if self.compatibility is None:
            return None
        given = np.array(self.compatibility if self._rectangular() else (), np.float32)
        if given.shape not in ((classes,), (classes, classes)) or not np.isfinite(given).all():
            raise ValueError(
                f"compatibility: expected {classes} finite numbers or {classes} times {classes}, as there are classes"
            )
        return given

    def _rectangular(self) -> bool:
        """Whether the compatibility is an array."""
        return len({len(row) if isinstance(row, tuple) else 0 for row in self.compatibility or ()}) == 1
