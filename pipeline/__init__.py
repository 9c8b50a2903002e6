"""segpipe: semantic segmentation of large image collections on Ray, from papers to nightly production.

In Python, a trained model is `Segmenter.from_bundle(url)(picture)`, and so are `Classifier` and `Detector`; the results
of a bulk run are `open_run(url)`. The names are imported on first use, so that `import pipeline` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import Classifier, Detector, Segmenter
    from pipeline.crf.dense import dense_crf
    from pipeline.data.images import decode_mask
    from pipeline.picture_results import Classification, Detection, Segmentation
    from pipeline.query.session import QueriedRuns, open_run

__version__ = "0.1.0"

__all__ = [
    "Classification",
    "Classifier",
    "Detection",
    "Detector",
    "QueriedRuns",
    "Segmentation",
    "Segmenter",
    "decode_mask",
    "dense_crf",
    "open_run",
]

_MODULES = {
    "Classification": "pipeline.picture_results",
    "Classifier": "pipeline.api",
    "Detection": "pipeline.picture_results",
    "Detector": "pipeline.api",
    "QueriedRuns": "pipeline.query.session",
    "Segmentation": "pipeline.picture_results",
    "Segmenter": "pipeline.api",
    "dense_crf": "pipeline.crf.dense",
    "decode_mask": "pipeline.data.images",
    "open_run": "pipeline.query.session",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the names of the module, those that are not imported yet included."""
    return sorted({*globals(), *__all__})
