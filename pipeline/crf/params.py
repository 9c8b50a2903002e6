"""The parameters of a dense CRF.

Options of command lines contain them, so this module imports neither NumPy nor Numba at the top.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Normalisation = Literal["symmetric", "before", "after", "none"]

# exact:  mean-field inference over all classes and pixels.
# pruned: classes that win no pixel of the image are merged into a single one; see `pruning`.
# fast:   pruned, and squares of 2x2 or 4x4 pixels in clearly labelled parts of the image share one result.
# With a compatibility matrix, or on images less than 32 pixels high or wide, all three are exact. All three skip pixels
# whose probabilities have settled; see `mean_field.Settling`.
Mode = Literal["exact", "pruned", "fast"]


class CRFParams(BaseModel):
    """Parameters of a fully connected CRF (Krähenbühl & Koltun, NIPS 2011), under the names of the DeepLab paper.

    The energy of a labelling x, with positions p, colours I and a sum over all pairs of pixels, is

        E(x) = sum_i -log P(x_i) + sum_{i<j} [x_i != x_j] ( w1 exp(-|p_i-p_j|²/2 sα² - |I_i-I_j|²/2 sβ²)
                                                          + w2 exp(-|p_i-p_j|²/2 sγ²) ).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    w1: float = Field(default=4.0, ge=0, allow_inf_nan=False, description="weight of the bilateral kernel")
    sigma_alpha: float = Field(
        default=67.0, gt=0, allow_inf_nan=False, description="width of the bilateral kernel in space, in pixels"
    )
    sigma_beta: float = Field(
        default=3.0,
        gt=0,
        allow_inf_nan=False,
        description="width of the bilateral kernel in colour, in grey levels 0..255",
    )
    w2: float = Field(default=3.0, ge=0, allow_inf_nan=False, description="weight of the spatial kernel")
    sigma_gamma: float = Field(
        default=3.0, gt=0, allow_inf_nan=False, description="width of the spatial kernel in pixels"
    )
    steps: int = Field(
        default=10, ge=0, description="number of mean-field steps; 0 returns the probabilities unchanged"
    )
    compatibility: tuple[float, ...] | tuple[tuple[float, ...], ...] | None = Field(
        default=None,
        description="label compatibility, multiplied by w1 and w2: none for Potts (1 for different labels), a factor "
        "for each class, or a matrix of penalties [class][class of the other pixel]",
    )
    normalisation: Normalisation = Field(
        default="symmetric",
        description="normalisation of the kernels by their row sums: before filtering, after it, symmetric (the square "
        "root of the sums before and after), or none",
    )
    stop_below: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="stop once a step changes the labels of less than this share of the pixels",
    )

    def label_compatibility(self, classes: int) -> "NDArray[np.float32] | None":
        """Return float32 factors [classes] or penalties [classes, classes], or None for Potts.

        Raises:
            ValueError: The compatibility does not fit the number of classes or is not finite.
        """
        import numpy as np

        if self.compatibility is None:
            return None
        compatibility = np.array(self.compatibility if self._is_rectangular() else (), np.float32)
        if compatibility.shape not in ((classes,), (classes, classes)) or not np.isfinite(compatibility).all():
            raise ValueError(
                f"compatibility: expected {classes} finite numbers or {classes}x{classes} of them for {classes} classes"
            )
        return compatibility

    def _is_rectangular(self) -> bool:
        """Whether all rows of the compatibility have the same length."""
        return len({len(row) if isinstance(row, tuple) else 0 for row in self.compatibility or ()}) == 1
