"""The parameters of a dense CRF."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Normalisation = Literal["symmetric", "before", "after", "none"]


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
    normalisation: Normalisation = Field(
        default="symmetric", description="of the kernels, by their sum before filtering, after it, half each, or not"
    )
