"""Fully connected CRF (dense CRF) on the CPU, with NumPy and Numba only.

The names are imported on first use, so that `pipeline.crf.params` can be imported without loading Numba.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.crf.dense import dense_crf
    from pipeline.crf.params import CRFParams, Mode
    from pipeline.crf.score_map import RefinedLabels, crf_of_scores

__all__ = ["CRFParams", "Mode", "RefinedLabels", "crf_of_scores", "dense_crf"]

_MODULES = {
    "CRFParams": "params",
    "Mode": "params",
    "RefinedLabels": "score_map",
    "crf_of_scores": "score_map",
    "dense_crf": "dense",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
