"""Bulk segmentation compared with what people use without segpipe: `python -m benchmarks.bulk [--images 2000]`.

All segment the same images with the same network and weights on the same cores, each in a fresh process. The peers
(`benchmarks.bulk_peers`) are a plain loop, a PyTorch DataLoader with workers, and Ray Data; they write PNG files or
Parquet. With --crf, the masks are refined too: by pydensecrf in a loop and in a pool of processes, if it is installed
(`benchmarks.crf_peer`), and by segpipe. Everyone first segments a few images, which is not measured, so that all
programs lie in the page cache. Then all run over two sizes, in turns. The columns are

    all in   images per second of the large run, from the start of the process to its end
    beyond   images per second beyond the fixed costs, from the difference of both runs: the rate of a large collection
    steady   the same as a peer's files show it: images per second after the first fifth
    fixed    seconds of the large run that do not grow with the number of images

with ratios to the plain loop. --ten-times adds a run of segpipe over ten times the images.

Then the stages are measured on one thread: alone, and while every core measures them. `efficiency` is the rate of
segpipe beyond its fixed costs over that of all cores if they did nothing but these stages, at either cost. A batch of
one image is shown for comparison and does not count.

On a GPU, everyone computes in bfloat16, and drawn images have 512x512 pixels. Printed only there: the mean utilisation
of the GPU while it computes (nvidia-smi, once a second); images per second of the network alone, eager and compiled, in
batches of 32 images of 512x512; and pixels per second of segpipe beyond its fixed costs over those of the compiled
network. There is no efficiency of cores then, and the network's stages are those of the GPU, driven by one thread. Of
several GPUs, everyone uses the first.

Without --bundle the weights are random, so the masks of photographs are arbitrary. How fast a CRF is depends on the
classes in an image: compare CRFs with a trained bundle and photographs of its kind.
"""

import argparse
import json
import os
import shutil
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks import bulk_gpu
from benchmarks.bulk_data import DRAWN_SIZE, copies, draw_scenes, mean_pixels, photographs, repeated, save_random_bundle
from benchmarks.bulk_report import print_results
from benchmarks.bulk_runs import HERE, Competitor, Run, competitors, refining_competitors, summary, timed_run
from benchmarks.bulk_stages import Work, needed, stage_costs
from benchmarks.crf_peer import has_pydensecrf
from pipeline import __version__, cluster
from pipeline.card import read_card
from pipeline.crf.params import CRFParams
from pipeline.crf.warm import warm
from pipeline.data.preprocessing import DType
from pipeline.predict.batch_size import CPU_PIXELS

WARM_UP = 8  # images of the runs that are not measured


def main() -> None:
    """Measure everything, print it, and write it as JSON."""
    arguments = parse()
    os.environ["CUDA_VISIBLE_DEVICES"] = (
        (os.environ.get("CUDA_VISIBLE_DEVICES") or "0").split(",")[0] if arguments.device == "cuda" else ""
    )
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.pop("RAY_ADDRESS", None)  # everyone starts a Ray of its own, on this machine's cores
    home = Path(tempfile.mkdtemp(prefix="segpipe-bulk-"))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(home / "compiled")
    try:
        results = measure(arguments, home)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print_results(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="images of the large runs (the small have a fifth)")
    parser.add_argument("--ten-times", action="store_true", help="run segpipe over ten times the images as well")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each size, in turns; medians are printed")
    parser.add_argument("--input", type=Path, help="folder of photographs (JPEG, PNG), repeated up to --images")
    parser.add_argument("--model", default="deeplabv3_resnet18", help="architecture, with random weights")
    parser.add_argument("--width", type=float, default=0.5, help="width multiplier of the network")
    parser.add_argument("--bundle", type=Path, help="trained bundle, in place of --model and --width")
    parser.add_argument("--crf", action="store_true", help="compare runs with a dense CRF as well")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is a GPU")
    parser.add_argument("--stage-seconds", type=float, default=20, help="time to measure the stages")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    arguments.device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU")
    if arguments.images < 20:
        parser.error("--images: at least 20")
    if arguments.input and not photographs(arguments.input):
        parser.error(f"--input: no JPEG or PNG file in {arguments.input}")
    return arguments


def measure(arguments: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Run everything in a folder, and return the results."""
    gpu, cores, load = arguments.device == "cuda", cluster.cpu_count(), os.getloadavg()[0]
    size = (bulk_gpu.SIZE, bulk_gpu.SIZE) if gpu else DRAWN_SIZE
    if arguments.input:
        originals = copies(photographs(arguments.input)[: arguments.images], home / "originals")
    else:
        originals = draw_scenes(home / "originals", size)
    model = str(arguments.bundle.resolve() if arguments.bundle else home / "model")
    card = read_card(model) if arguments.bundle else save_random_bundle(model, arguments.model, arguments.width)
    pixels = mean_pixels(originals)
    batch_pixels = bulk_gpu.BATCH * bulk_gpu.SIZE**2 if gpu else CPU_PIXELS
    batch = max(1, int(batch_pixels // pixels))
    dtype: DType = bulk_gpu.DTYPE if gpu else "float32"
    groups = [competitors(model, batch=batch, dtype=dtype)]
    if arguments.crf:
        warm(classes=len(card.classes), params=CRFParams(), mode="pruned")  # as an installation does
        groups.append(refining_competitors(model, batch=batch, dtype=dtype, pydensecrf=has_pydensecrf()))
    results: dict[str, Any] = {
        "network": ", ".join([card.architecture, *(f"{name} {value}" for name, value in card.options.items())]),
        "input": str(arguments.input) if arguments.input else f"drawn scenes of {size[0]}x{size[1]}",
        "images": arguments.images,
        "megapixels": pixels / 1e6,
        "batch": batch,
        "dtype": dtype,
        "device": bulk_gpu.device_name() if gpu else "cpu",
        "cores": cores,
        "load_before": load,
        "versions": {"segpipe": __version__, "torch": torch.__version__, "ray": ray.__version__},
    }
    runs = run_in_turns([one for group in groups for one in group], originals, arguments, home)
    results["groups"] = [[summary(one.name, runs[one.name]) for one in group] for group in groups]
    if arguments.ten_times:
        results["ten_times"] = ten_times(groups[0][-1], results, originals, home)
    work = Work(model, home / str(arguments.images), dtype, arguments.crf, batch_pixels)
    results["stages"] = {"alone": stage_costs(work, processes=1, seconds=arguments.stage_seconds)}
    if gpu:
        results["bare"] = bulk_gpu.bare_rates(model)
        results["of_bare"] = of_bare(results)
    else:
        results["stages"]["every core"] = stage_costs(work, processes=cores, seconds=arguments.stage_seconds)
        results["efficiency"] = efficiency(results)
    return results


def run_in_turns(
    everyone: list[Competitor], originals: list[Path], arguments: argparse.Namespace, home: Path
) -> dict[str, list[Run]]:
    """Run every competitor over both sizes, and return the runs by name."""
    runs: dict[str, list[Run]] = {one.name: [] for one in everyone}
    for one in everyone:
        timed_run(one, repeated(originals, WARM_UP, home / str(WARM_UP)), home)
    for _ in range(arguments.rounds):  # in turns, so that other load on the machine affects everyone
        for one, count in product(everyone, (arguments.images // 5, arguments.images)):
            run = timed_run(one, repeated(originals, count, home / str(count)), home)
            print(f"{one.name}: {count:,} images in {run.seconds:.1f} s", flush=True)
            runs[one.name].append(run)
    return runs


def ten_times(ours: Competitor, results: dict[str, Any], originals: list[Path], home: Path) -> dict[str, Any]:
    """Run segpipe over ten times the images, and return its rates as `summary` does."""
    count = 10 * results["images"]
    run = timed_run(ours, repeated(originals, count, home / str(count)), home)
    before = [Run(**fields) for fields in results["groups"][0][-1]["runs"]]
    return summary(f"{ours.name}, {count:,} images", [*(r for r in before if 10 * r.images == count), run])


def efficiency(results: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return segpipe's rate beyond its fixed costs over that of cores which do nothing but the stages.

    Returns:
        The ratio for each run of segpipe, with and without CRF, at each cost of the stages.
    """
    ratios = {}
    for group, crf in zip(results["groups"], (False, True), strict=False):
        ours, rate = group[-1]["name"], group[-1]["beyond"]
        ratios[ours] = {
            name: None if rate is None else rate * needed(costs, crf=crf) / 1000 / results["cores"]
            for name, costs in results["stages"].items()
        }
    return ratios


def of_bare(results: dict[str, Any]) -> float | None:
    """Return the pixels per second of segpipe beyond its fixed costs over those of the bare compiled network."""
    ours, bare = results["groups"][0][-1]["beyond"], results["bare"]["compiled"]
    if ours is None or isinstance(bare, str):
        return None
    return ours * results["megapixels"] / (bare * bulk_gpu.SIZE**2 / 1e6)


if __name__ == "__main__":
    main()
