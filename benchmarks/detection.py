"""Detectors compared with each other, and bulk detection with a plain loop: `python -m benchmarks.detection`.

The first part computes one image of 500x375 pixels (VOC's usual size) with R-CNN, SPPNet at one scale and at five, and
Fast R-CNN, on one backbone and the same random proposals, and with both YOLOs, which have networks of their own. It
measures the detection in an image, the choice among the boxes included, and a training step with one image: losses and
backward pass. The weights are random; the times do not depend on them. On a CPU, seconds are those of the process
(`time.process_time`) on one thread, so that other processes on the machine hardly change them. The proposals take the
same time for all (the last line).

The papers' figures are for a GPU, 2000 proposals and other networks: SPPNet (ZF-5) is 24 to 102 times as fast as R-CNN
(He et al., 2015, table 10), Fast R-CNN (VGG16) 146 times (Girshick, 2015, table 4).

The second part (`--bulk N`) runs torchvision's Faster R-CNN over N drawn images: by `segpipe detect`, and by a loop in
one process that uses all cores, as torchvision's documentation shows. Both write their boxes. Seconds are those on the
clock, for the whole run with its start, and per image, from the difference to a run over a quarter of the images: with
fewer than a hundred images, that difference is lost in the noise of the starts.

    python -m benchmarks.detection --proposals 2000 --bulk 128 --output detection.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import timed
from pipeline import bundle
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.data.preprocessing import DetectorInput, ProposalOptions
from pipeline.data.proposals import propose
from pipeline.demo.shapes import draw_shapes
from pipeline.models import configure
from pipeline.models.detection.detector import DetectionNetwork, Target

SIZE = (375, 500)
CLASSES = 20
PAPERS = {"SPPNet, 1 scale": "24 to 102 (1 and 5 scales)", "SPPNet, 5 scales": "", "Fast R-CNN": "146"}
FASTER_RCNN = {"short_side": 256, "longest_side": 400}  # smaller than torchvision's, so that a CPU takes no minutes


def main() -> None:
    """Measure, print tables, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="alexnet", choices=["alexnet", "vgg16", "resnet"])
    parser.add_argument("--proposals", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bulk", type=int, default=0, help="number of images of the second part (0: none)")
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"load": os.getloadavg()[0], "cores": _cores(), "proposals": arguments.proposals}
    results["networks"] = compare_networks(arguments)
    if arguments.bulk:
        results["bulk"] = compare_bulk(arguments.bulk)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2))


def compare_networks(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the seconds of each detector, and print them."""
    region = {"backbone": arguments.backbone}
    detectors = {
        "R-CNN": ("rcnn_alexnet", region | {"crop": 227 if arguments.backbone == "alexnet" else 224}),
        "SPPNet, 5 scales": ("sppnet_alexnet", region),
        "SPPNet, 1 scale": ("sppnet_alexnet", region | {"scales": (688,)}),
        "Fast R-CNN": ("fast_rcnn_alexnet", region),
        "YOLO": ("yolo", {}),
        "Fast YOLO": ("yolo_fast", {}),
    }
    device = torch.device(arguments.device)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    image = torch.randn(3, *SIZE, device=device)
    proposals = random_proposals(rng, arguments.proposals).to(device)
    target = Target(proposals[:4].round(), torch.arange(4, device=device))
    found: dict[str, dict[str, float]] = {}
    print(f"{'':<18}  detection  training   speed-up  in the paper")
    for name, (architecture, options) in detectors.items():
        network = configure(architecture, options).build(CLASSES)
        assert isinstance(network, DetectionNetwork)
        detect(network, image, proposals[:8])  # the first calls allocate memory, and choose algorithms
        learn(network, image, target, proposals[:8])
        seconds = {
            "detection": median(partial(detect, network, image, proposals), arguments.rounds, device),
            "training": median(partial(learn, network, image, target, proposals), arguments.rounds, device),
        }
        found[name] = seconds
        speed = found["R-CNN"]["detection"] / seconds["detection"]
        cells = f"{seconds['detection']:>7.3f} s  {seconds['training']:>6.3f} s  {speed:>8.1f}x"
        print(f"{name:<18}  {cells}  {PAPERS.get(name, '')}", flush=True)
    search = median(lambda: propose(pixels, ProposalOptions()), 1, torch.device("cpu"))
    found["selective search"] = {"detection": search}
    print(f"{'selective search':<18}  {search:>7.3f} s")
    return found


def random_proposals(rng: np.random.Generator, count: int) -> Tensor:
    """Return boxes of sides from 20 pixels to the whole image, evenly distributed on a logarithmic scale."""
    limits = np.array([SIZE[1], SIZE[0]])
    sides = np.exp(rng.uniform(np.log(20), np.log(limits), (count, 2)))
    first = rng.uniform(0, 1, (count, 2)) * (limits - sides)
    return torch.from_numpy(np.concatenate([first, first + sides], axis=1).astype(np.float32))


@torch.inference_mode()
def detect(network: DetectionNetwork, image: Tensor, proposals: Tensor) -> None:
    """Detect in an image."""
    network.to(image.device).eval().detect([image], [proposals])


def learn(network: DetectionNetwork, image: Tensor, target: Target, proposals: Tensor) -> None:
    """Compute the losses of an image and their gradients."""
    network.to(image.device).train()
    losses = network.losses([image], [target], [proposals], rng=np.random.default_rng(0))
    torch.stack(list(losses.values())).sum().backward()


def median(work: Callable[[], object], rounds: int, device: torch.device) -> float:
    """Return the median of the seconds that a piece of work takes."""
    seconds = []
    for _ in range(rounds):
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return statistics.median(seconds)


def compare_bulk(count: int) -> dict[str, float]:
    """Return the seconds of bulk runs and of loops with the same network and images, and print them."""
    few = max(1, count // 4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        for part, images in (("few", few), ("all", count)):
            (folder / part).mkdir()
            for i in range(images):
                write_picture(rng, folder / part / f"{i:04}.jpg")
        network = configure("faster_rcnn", FASTER_RCNN).build(3)
        card = Card(
            architecture="faster_rcnn",
            options=FASTER_RCNN,
            classes=Classes(names=("disc", "square", "triangle")),
            detector=DetectorInput(),
        )
        bundle.save_bundle(str(folder / "model"), network, card)
        seconds: dict[str, dict[str, float]] = {"bulk": {}, "loop": {}}
        for part in ("few", "all"):
            job = [sys.executable, "jobs/detect.py", "--model", f"{folder}/model", "--images", f"{folder}/{part}"]
            job += ["--output", f"{folder}/runs", "--run-id", part, "--scaling.actors", str(_cores())]
            loop = [sys.executable, "-m", "benchmarks.detection_loop", f"{folder}/{part}", f"{folder}/{part}.json"]
            seconds["bulk"][part] = timed(partial(run, job))
            seconds["loop"][part] = timed(partial(run, loop))
    # The difference of two runs has no start in it.
    each = {name: (times["all"] - times["few"]) / (count - few) for name, times in seconds.items()}
    print(f"\nFaster R-CNN, {count} images on {_cores()} cores")
    for name, times in seconds.items():
        print(f"{name}   {times['all']:>7.1f} s with the start, {each[name]:.3f} s per further image")
    print(f"loop / bulk   {seconds['loop']['all'] / seconds['bulk']['all']:.2f} with the start, ", end="")
    print(f"{each['loop'] / each['bulk']:.2f} per further image")
    return {"images": count, "loop_per_image": each["loop"], "bulk_per_image": each["bulk"]} | {
        f"{name}_{part}": value for name, times in seconds.items() for part, value in times.items()
    }


def write_picture(rng: np.random.Generator, file: Path) -> None:
    """Write a picture of 640x480 pixels with drawn shapes."""
    from PIL import Image

    Image.fromarray(draw_shapes(rng)[0]).resize((640, 480)).save(file)


def run(command: list[str]) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
