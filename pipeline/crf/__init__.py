"""Fully connected CRF on the CPU: NumPy and Numba only."""

from pipeline.crf.dense import dense_crf
from pipeline.crf.params import CRFParams

__all__ = ["CRFParams", "dense_crf"]
