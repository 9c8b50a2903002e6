"""Fully connected CRF (dense CRF) in PyTorch, for GPUs; on any device it computes what `pipeline.crf` does.

`lattice` sorts the keys of lattice points, `kernel` filters, `mean_field` does the steps, and `inference` prunes
classes and leads from score maps to labels. `score_map` and `dense` are the two ways to call it, in batches and tiles
that fit the memory.
"""

from pipeline.crf.gpu.dense import dense_crf
from pipeline.crf.gpu.score_map import crf_of_scores, refine_batch

__all__ = ["crf_of_scores", "dense_crf", "refine_batch"]
