"""Fully connected CRF on the CPU: NumPy and Numba only."""

from pipeline.crf.dense import dense_crf
from pipeline.crf.params import CRFParams, Mode
from pipeline.crf.score_map import RefinedLabels, crf_of_scores

__all__ = ["CRFParams", "Mode", "RefinedLabels", "crf_of_scores", "dense_crf"]
