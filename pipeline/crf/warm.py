"""Compiling the CRF's loops once per machine: Numba keeps them on disk, and later processes load them in a moment."""

import fcntl
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.crf import filtering
from pipeline.crf.params import CRFParams, Mode
from pipeline.crf.score_map import crf_of_scores


@cache
def warm(*, classes: int, params: CRFParams, mode: Mode) -> float:
    """Make sure that everything a run needs is compiled; while one process does it, others on the machine wait. Only a
    process's first call does anything.

    Args:
        classes: of the run; where some are left out, rows of every width up to theirs occur.
        params, mode: of the run.

    Returns:
        The seconds that it took or waited: tens where nothing was compiled, under one where all was.
    """
    start = time.perf_counter()
    with (_folder() / "warm.lock").open("w") as lock:
        mark = _folder() / f"warm-{_version()}-{mode}-{classes}-{params.normalisation}"
        if not mark.exists():
            fcntl.flock(lock, fcntl.LOCK_EX)  # freed with the file
        for count in [classes] if mode == "exact" else [*range(7, classes, 8), classes]:
            _run(classes, count, params, mode)
        mark.touch()
    return time.perf_counter() - start


def _run(classes: int, count: int, params: CRFParams, mode: Mode) -> None:
    """A CRF of an image in which so many of the classes, up to 64, win: the first nearly everywhere."""
    scores = np.full((classes, 8, 8), -20, np.float16)
    scores[0] = 20
    for c in range(1, min(count, 64)):
        scores[[0, c], c % 8, c // 8] = -20, 20
    crf_of_scores(np.zeros((64, 64, 3), np.uint8), scores, stride=8, params=params, mode=mode)


def _version() -> str:
    """Numba compiles anew where the files have changed."""
    return f"{max(file.stat().st_mtime_ns for file in Path(__file__).parent.glob('*.py')):x}"


def _folder() -> Path:
    """Where Numba keeps what it compiled, which is beside the source if it can be written, and else in the home."""
    folder = Path(filtering.step.stats.cache_path or tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    return folder
