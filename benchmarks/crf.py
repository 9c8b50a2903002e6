"""Compare our dense CRF with pydensecrf on one core: `python -m benchmarks.crf [--rounds 5] [--images FOLDER]`.

With `--device cuda` or `--device cpu`, compare our dense CRF in PyTorch on that device with both instead; see
`benchmarks.crf_device`.

`benchmarks.crf_peer` says how pydensecrf is installed. Without it, only our CRF is timed.

There are nine cases: three image sizes of well-known data sets and three parameter sets. Each size has as many classes
in an image as networks find there (CamVid: 7 of 11 is what our DeepLab with mIoU 0.42 leaves after pruning). Both
libraries start from the same probabilities and return labels. Times are medians of interleaved runs; `ratio` is
pydensecrf's time over ours. `labels` is the share of pixels that get another label: the exact mode is compared with
pydensecrf, the other modes with our exact mode. The images are drawn, unless --images names a folder of photographs.
Needs Linux.
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

from benchmarks.crf_peer import has_pydensecrf, pydensecrf, pydensecrf_labels
from benchmarks.crf_scenes import PARAMETER_SETS, Scene, draw, photograph, probabilities_of
from benchmarks.measure import interleaved, peak_growth
from pipeline.crf import CRFParams, Mode, dense_crf

SIZES = {  # width, height, classes of the data set, classes in an image
    "VOC": (500, 375, 21, 3),
    "CamVid": (480, 360, 11, 7),
    "Cityscapes / 2": (1024, 512, 19, 11),
}
MODES: tuple[Mode, ...] = get_args(Mode)


def main() -> None:
    """Run all measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="number of timed runs, of which the median is taken")
    parser.add_argument("--images", type=Path, help="folder of photographs to use in place of drawn images")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="measure the CRF in PyTorch on this device")
    parser.add_argument("--batch", type=int, default=32, help="with --device: images of a batch")
    arguments = parser.parse_args()
    if arguments.device:
        from benchmarks.crf_device import compare_on_device

        compare_on_device(arguments.device, batch=arguments.batch, rounds=arguments.rounds)
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    peer = has_pydensecrf()
    if not peer:
        print("pydensecrf is not installed: timing our CRF alone")
    compare(make_scenes(arguments.images), arguments.rounds, peer=peer)
    os.sched_setaffinity(0, cores)
    report_memory(peer=peer)
    report_two_processes()
    report_first_call()


def our_labels(pixels: NDArray[np.uint8], probabilities: NDArray[np.float32], params: CRFParams) -> NDArray:
    """Return the labels [height, width] that our exact mode infers."""
    return dense_crf(pixels, probabilities=probabilities, params=params)


def make_scenes(folder: Path | None) -> dict[str, Scene]:
    """Return one scene for each size, from the photographs of a folder or drawn."""
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")) if folder else []
    scenes = {}
    for i, (name, (width, height, classes, present)) in enumerate(SIZES.items()):
        options = {"classes": classes, "present": present, "seed": i}
        if paths:
            scenes[name] = photograph(paths[i * len(paths) // len(SIZES)], width, height, **options)
        else:
            scenes[name] = draw(width, height, **options)
    return scenes


def compare(scenes: dict[str, Scene], rounds: int, *, peer: bool) -> None:
    """Time all modes, and pydensecrf if installed, on every scene with every parameter set."""
    ratios: dict[str, list[float]] = {mode: [] for mode in MODES}
    columns = "".join(f"{mode:>9}{'ratio':>7}{'labels':>9}" for mode in MODES)
    print(f"{'':22}{'pydensecrf':>11}{columns}" + ("  max |dQ|" if peer else ""))
    for name, scene in scenes.items():
        probabilities = probabilities_of(scene)
        for key, params in PARAMETER_SETS.items():
            works: list[Callable[[], Any]] = [
                partial(dense_crf, scene.pixels, probabilities=probabilities, params=params, mode=mode)
                for mode in MODES
            ]
            if peer:
                works.insert(0, partial(pydensecrf_labels, scene.pixels, probabilities, params))
            times, results = interleaved(works, rounds)
            peer_time = times.pop(0) if peer else float("nan")
            reference = results.pop(0) if peer else results[0]
            line = f"{name:16} {key:5}" + (f"{1000 * peer_time:8.0f} ms" if peer else f"{'–':>11}")
            for mode, seconds, labels in zip(MODES, times, results, strict=True):
                ratios[mode].append(peer_time / seconds)
                differing = np.mean(labels != (reference if mode == "exact" else results[0]))
                ratio = f"{peer_time / seconds:.2f}" if peer else "–"
                line += f"{1000 * seconds:6.0f} ms{ratio:>7}{differing:9.0e}"
            if peer:
                q = dense_crf(scene.pixels, probabilities=probabilities, params=params, output="probabilities")
                line += f"{np.abs(q - pydensecrf(scene.pixels, probabilities, params)).max():10.0e}"
            else:
                line += f"   exact {1e9 * times[0] / reference.size / params.steps:.0f} ns per pixel and step"
            print(line, flush=True)
    if peer:
        for name, of_mode in ratios.items():
            print(f"{name}: median ratio {statistics.median(of_mode):.2f}, smallest ratio {min(of_mode):.2f}")


def report_memory(*, peer: bool) -> None:
    """Print the peak memory of each library for 2048x1024 pixels and 19 classes, in a process of its own."""
    peaks = {}
    for library in ("ours", *(["pydensecrf"] if peer else [])):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks[library] = pool.apply(_peak, (library,))
    print(
        "peak memory for 2048x1024 pixels and 19 classes: "
        + ", ".join(f"{library} {size / 2**20:.0f} MiB" for library, size in peaks.items())
    )


def _peak(library: str) -> int:
    scene = draw(2048, 1024, classes=19, present=11, seed=0)
    probabilities, params = probabilities_of(scene), PARAMETER_SETS["S1"]
    small = np.ascontiguousarray(probabilities[:, :64, :64])
    work: Callable[..., Any] = our_labels if library == "ours" else pydensecrf_labels
    work(np.ascontiguousarray(scene.pixels[:64, :64]), small, params)  # compile first: that memory does not count
    return peak_growth(partial(work, scene.pixels, probabilities, params))


def report_two_processes() -> None:
    """Print the throughput of two processes relative to one."""
    rates = []
    for count in (1, 2):
        with multiprocessing.get_context("spawn").Pool(count) as pool:
            spans = pool.map(_seconds_per_image, range(count), chunksize=1)
        rates.append(sum(1 / seconds for seconds in spans))
    print(f"two processes: {rates[1] / rates[0]:.2f} times the throughput of one")


def _seconds_per_image(seed: int) -> float:
    """Refine one image for eight seconds and return the mean time."""
    scene = draw(500, 375, classes=21, present=3, seed=seed)
    probabilities = probabilities_of(scene)
    dense_crf(scene.pixels, probabilities=probabilities)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < 8:
        dense_crf(scene.pixels, probabilities=probabilities)
        done += 1
    return (time.perf_counter() - start) / done


def report_first_call() -> None:
    """Print the time of the first call in a new process, with compiled code and Python's bytecode on disk."""
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
    print(f"first call in a new process, with the compiled code on disk: {min(seconds):.2f} s")


if __name__ == "__main__":
    main()
