"""Compile the CRF's loops once per machine: Numba keeps them on disk, from where later processes load them quickly.

`python -m pipeline.crf.warm` compiles what most runs need, for example after an installation.
"""

import fcntl
import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.crf import filtering
from pipeline.crf.hashing import insert_all
from pipeline.crf.params import CRFParams, Mode
from pipeline.crf.score_map import crf_of_scores


@cache
def warm(*, classes: int, params: CRFParams, mode: Mode, folder: Path | None = None) -> float:
    """Compile everything that a run needs, unless the machine has it on disk, and load it.

    While one process compiles, other processes on the machine wait. In each process only the first call does anything.

    Args:
        classes: number of classes of the run. With pruning, rows of every width up to that of all classes can occur,
            with a rest lane for the classes that an image does not contain, and without.
        params: parameters of the CRF.
        mode: mode of the CRF.
        folder: folder for the lock and the markers of what is compiled; by default Numba's cache folder.

    Returns:
        The seconds that compiling or waiting took: tens if nothing was compiled, less than one if everything was.
    """
    start = time.perf_counter()
    folder = folder or _cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "warm.lock").open("w") as lock:
        marker = folder / f"warm-{_version()}-{mode}-{classes}-{params.normalisation}"
        if not marker.exists():
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
        pruned = [] if mode == "exact" else range(7, classes + 7, 8)  # and the rest lane: rows of 8, 16, … lanes
        for kept in [*(min(count, classes - 1) for count in pruned if classes > 1), classes]:
            _run(classes, kept, params, mode)
        insert_all(np.empty(0, np.int64), 0, np.empty(0, np.int32))  # for images with more lattice points than these
        marker.touch()
    return time.perf_counter() - start


def _run(classes: int, kept: int, params: CRFParams, mode: Mode) -> None:
    """Refine an image in which `kept` classes, but at most 64, win; the first wins nearly everywhere."""
    scores = np.full((classes, 8, 8), -20, np.float16)
    scores[0] = 20
    for c in range(1, min(kept, 64)):
        scores[[0, c], c % 8, c // 8] = -20, 20
    crf_of_scores(np.zeros((64, 64, 3), np.uint8), scores, stride=8, params=params, mode=mode)


def _version() -> str:
    """Return a version that changes with the source files, after which Numba compiles again."""
    return f"{max(file.stat().st_mtime_ns for file in Path(__file__).parent.glob('*.py')):x}"


def _cache_folder() -> Path:
    """Return Numba's cache folder, which is beside the source if that is writeable and else in the home directory."""
    return Path(filtering.mean_field_step.stats.cache_path or tempfile.gettempdir())


def main() -> None:
    """Compile the default mode for up to 24 classes, which are rows of 8, 16 and 24 lanes."""
    seconds = sum(warm(classes=classes, params=CRFParams(), mode="pruned") for classes in (21, 6, 11))
    print(f"dense CRF compiled in {seconds:.0f} s")


if __name__ == "__main__":
    main()
