"""Our dense CRF beside pydensecrf on one core: `python -m benchmarks.crf [--rounds 5] [--images FOLDER]`.

pydensecrf does not build any more; its fork pydensecrf2 does: `pip install cython setuptools wheel`, then
`pip install --no-build-isolation pydensecrf2`. Without either the figures are ours alone, checked on a small picture
against the lattice as scipy.sparse matrices.

Nine cases: three sizes of well-known data sets with as many classes in an image as networks find there (CamVid: 7 of
11 is what our DeepLab with mIoU 0.42 leaves after pruning), three parameter sets. Both begin with the same
probabilities and end with labels; times are medians of interleaved runs, a ratio is theirs over ours. `labels` is the
share of pixels whose label is not that of our exact mode, and for that mode, not pydensecrf's. Needs Linux.
The pictures are drawn, unless --images names a folder of photographs.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from benchmarks.crf_scenes import STRIDE, Scene, draw, photograph
from benchmarks.measure import peak_growth
from pipeline.crf import CRFParams, Mode, dense_crf

SIZES = {  # width, height, classes, those in an image
    "VOC": (500, 375, 21, 3),
    "CamVid": (480, 360, 11, 7),
    "Cityscapes / 2": (1024, 512, 19, 11),
}
SETS = {  # sigma_alpha, sigma_beta, w1
    "S1": CRFParams(sigma_alpha=67, sigma_beta=3, w1=4),
    "S2": CRFParams(sigma_alpha=49, sigma_beta=5, w1=5),
    "S3": CRFParams(sigma_alpha=80, sigma_beta=13, w1=10),
}
MODES: tuple[Mode, ...] = get_args(Mode)


def probabilities_of(scene: Scene) -> NDArray[np.float32]:
    """The softmax of the scores, interpolated, float32 [classes, height, width]."""
    height, width = scene.truth.shape
    full = zoom(scene.scores, (1, STRIDE, STRIDE), order=1, grid_mode=True, mode="nearest")[:, :height, :width]
    e = np.exp(full - full.max(axis=0))
    return e / e.sum(axis=0)


def pydensecrf(pixels: NDArray[np.uint8], probabilities: NDArray[np.float32], params: CRFParams) -> NDArray[np.float32]:
    from pydensecrf.densecrf import DenseCRF2D

    classes, height, width = probabilities.shape
    crf = DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(-np.log(np.maximum(probabilities, 1e-8)).reshape(classes, -1))
    crf.addPairwiseGaussian(sxy=params.sigma_gamma, compat=params.w2)
    crf.addPairwiseBilateral(sxy=params.sigma_alpha, srgb=params.sigma_beta, rgbim=pixels, compat=params.w1)
    return np.array(crf.inference(params.steps)).reshape(classes, height, width)


def pydensecrf_labels(
    pixels: NDArray[np.uint8], probabilities: NDArray[np.float32], params: CRFParams
) -> NDArray[np.intp]:
    return pydensecrf(pixels, probabilities, params).argmax(axis=0)


def dense_crf_labels(pixels: NDArray[np.uint8], probabilities: NDArray[np.float32], params: CRFParams) -> NDArray:
    return dense_crf(pixels, probabilities=probabilities, params=params)


def peer_is_there() -> bool:
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=Path, help="folder of photographs")
    arguments = parser.parse_args()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    peer = peer_is_there()
    if not peer:
        print("pydensecrf is not installed: figures of ours alone")
        against_oracle()
    cases(scenes(arguments.images), arguments.rounds, peer=peer)
    os.sched_setaffinity(0, cores)
    memory(peer=peer)
    two_processes()
    first_call()


def scenes(folder: Path | None) -> dict[str, Scene]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")) if folder else []
    made = {}
    for i, (name, (width, height, classes, present)) in enumerate(SIZES.items()):
        told = {"classes": classes, "present": present, "seed": i}
        if paths:
            made[name] = photograph(paths[i * len(paths) // len(SIZES)], width, height, **told)
        else:
            made[name] = draw(width, height, **told)
    return made


def cases(made: dict[str, Scene], rounds: int, *, peer: bool) -> None:
    ratios: dict[str, list[float]] = {mode: [] for mode in MODES}
    print(
        f"{'':22}{'pydensecrf':>11}" + "".join(f"{mode:>9}{'ratio':>7}{'labels':>9}" for mode in MODES) + "  max |dQ|"
    )
    for name, scene in made.items():
        probabilities = probabilities_of(scene)
        for key, params in SETS.items():
            works: list[Callable[[], Any]] = [
                partial(dense_crf, scene.pixels, probabilities=probabilities, params=params, mode=mode)
                for mode in MODES
            ]
            if peer:
                works.insert(0, partial(pydensecrf_labels, scene.pixels, probabilities, params))
            times, results = interleaved(works, rounds)
            theirs = times.pop(0) if peer else float("nan")
            labels = results.pop(0) if peer else results[0]
            cells = f"{name:16} {key:5}" + (f"{1000 * theirs:8.0f} ms" if peer else f"{'–':>11}")
            for mode, seconds, found in zip(MODES, times, results, strict=True):
                ratios[mode].append(theirs / seconds)
                differ = np.mean(found != (labels if mode == "exact" else results[0]))
                ratio = f"{theirs / seconds:.2f}" if peer else "–"
                cells += f"{1000 * seconds:6.0f} ms{ratio:>7}{differ:9.0e}"
            if peer:
                q = dense_crf(scene.pixels, probabilities=probabilities, params=params, output="probabilities")
                cells += f"{np.abs(q - pydensecrf(scene.pixels, probabilities, params)).max():10.0e}"
            else:
                cells += f"   exact {1e9 * times[0] / labels.size / params.steps:.0f} ns per pixel and step"
            print(cells, flush=True)
    if peer:
        for name, of_mode in ratios.items():
            print(f"{name}: median ratio {statistics.median(of_mode):.2f}, smallest {min(of_mode):.2f}")


def interleaved(works: list[Callable[[], Any]], rounds: int) -> tuple[list[float], list[Any]]:
    """The median seconds of each, done in turn, and its result; a first round warms up."""
    times: list[list[float]] = [[] for _ in works]
    results: list[Any] = [None for _ in works]
    for i in range(rounds + 1):
        for k, work in enumerate(works):
            start = time.perf_counter()
            results[k] = work()
            if i:
                times[k].append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times], results


def against_oracle() -> None:
    """Labels of a small picture against splat, blur and slice as scipy.sparse matrices."""
    from tests.support import crf_oracles as oracle

    scene = draw(64, 48, classes=5, present=4, seed=0)
    probabilities, params = probabilities_of(scene), CRFParams(sigma_alpha=20, sigma_beta=8)
    matrices = [
        (params.w1, oracle.lattice_matrix(oracle.features_of(scene.pixels, params.sigma_alpha, params.sigma_beta))),
        (params.w2, oracle.lattice_matrix(oracle.features_of(scene.pixels, params.sigma_gamma))),
    ]
    kernels = [(weight, oracle.normalised(matrix, "symmetric")) for weight, matrix in matrices]
    expected = oracle.mean_field(np.log(probabilities.reshape(5, -1)).astype(np.float64), kernels, steps=params.steps)
    found = dense_crf(scene.pixels, probabilities=probabilities, params=params).ravel()
    print(f"64x48: {np.count_nonzero(found != expected.argmax(axis=0))} labels differ from the scipy oracle's")


def memory(*, peer: bool) -> None:
    """What each adds at its peak at 2048x1024x19, in a process of its own."""
    grown = {}
    for who in ("ours", *(["pydensecrf"] if peer else [])):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            grown[who] = pool.apply(_peak, (who,))
    print("peak memory at 2048x1024x19: " + ", ".join(f"{who} {size / 2**20:.0f} MiB" for who, size in grown.items()))


def _peak(who: str) -> int:
    scene = draw(2048, 1024, classes=19, present=11, seed=0)
    probabilities, params = probabilities_of(scene), SETS["S1"]
    small = np.ascontiguousarray(probabilities[:, :64, :64])
    work: Callable[..., Any] = dense_crf_labels if who == "ours" else pydensecrf_labels
    work(np.ascontiguousarray(scene.pixels[:64, :64]), small, params)  # what compiling takes is not counted
    return peak_growth(partial(work, scene.pixels, probabilities, params))


def two_processes() -> None:
    """The images a second of two processes over those of one."""
    rates = []
    for count in (1, 2):
        with multiprocessing.get_context("spawn").Pool(count) as pool:
            spans = pool.map(_many, range(count), chunksize=1)
        rates.append(sum(1 / seconds for seconds in spans))
    print(f"two processes: {rates[1] / rates[0]:.2f} x one")


def _many(seed: int) -> float:
    """Seconds an image, when all processes are at it."""
    scene = draw(500, 375, classes=21, present=3, seed=seed)
    probabilities = probabilities_of(scene)
    dense_crf(scene.pixels, probabilities=probabilities)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < 8:
        dense_crf(scene.pixels, probabilities=probabilities)
        done += 1
    return (time.perf_counter() - start) / done


def first_call() -> None:
    """The first call in a fresh process, with the compiled code and Python's bytecode on disk."""
    code = (
        "import time, numpy as np; from pipeline.crf import dense_crf; "
        "image, p = np.zeros((64, 64, 3), np.uint8), np.full((21, 64, 64), 1 / 21, np.float32); "
        "start = time.perf_counter(); dense_crf(image, probabilities=p, mode='pruned'); "
        "print(time.perf_counter() - start)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, env=environment, capture_output=True, check=True) for _ in range(3)]
    seconds = [float(run.stdout) for run in runs]
    print(f"first call in a fresh process, compiled before: {min(seconds):.2f} s")


if __name__ == "__main__":
    main()
