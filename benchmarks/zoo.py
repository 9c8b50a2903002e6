"""mIoU against speed of all families of segmentation networks, trained under one budget.

    python -m benchmarks.zoo --train IMAGES LABELS --val IMAGES LABELS --classes classes.yaml --output zoo --crops 4000

Each network sees the same number of crops with the same optimiser, and is trained by `segpipe train` in a process of
its own; a training run that is finished is not repeated. The speed is that of the bulk run's segmenter, from decoded
pixels to labels, on validation images one size at a time in batches of `--batch`, all cores of one process (or
`--device cuda`). The best networks for a nightly run lie on the upper right edge of `zoo.png`. One budget and one
optimiser for all is a fair start, not each network's best: the papers train longer, and from pre-trained weights.

`--width` narrows all networks. `--teacher BUNDLE` trains them from a teacher's scores as well.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from pipeline import models
from pipeline.bundle import load_bundle
from pipeline.data.datasets import Sample, pair, read_image
from pipeline.predict.cpu_network import suit_cpu
from pipeline.predict.segmenter import Segmenter
from pipeline.studies.figures import png_and_svg

# Model and options that differ from the preset: each family once, at the output stride of its paper.
ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "FCN-8s": ("fcn8s", {}),
    "DeepLab v1 LargeFOV": ("deeplabv1_largefov", {}),
    "DeepLab v2 VGG16": ("deeplabv2_vgg16", {}),
    "DeepLab v3 R18 /16": ("deeplabv3_resnet18", {}),
    "DeepLab v3 R18 /8": ("deeplabv3_resnet18", {"output_stride": 8, "auxiliary_head": True}),
    "DeepLab v3 R50 /16": ("deeplabv3_resnet50", {}),
    "PSPNet R50": ("pspnet_resnet50", {}),
    "SegNet": ("segnet", {}),
    "SegNet-Basic": ("segnet_basic", {}),
    "U-Net": ("unet", {}),
    "FusionNet": ("fusionnet", {}),
    "Deep Contextual": ("deep_contextual", {}),
    "FRRN-A": ("frrn_a", {}),
}


def train(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a network of the zoo; return the record of its best epoch and the seconds of its training."""
    model, options = ZOO[name]
    output = Path(arguments.output) / name.replace(" ", "_").replace("/", "os")
    epochs = max(1, round(arguments.crops / arguments.epoch_crops))
    command = [sys.executable, "-m", "pipeline", "train", "--model", model, "--output", str(output)]
    for split, (images, labels) in (("train", arguments.train), ("val", arguments.val)):
        command += [f"--{split}.images", images, f"--{split}.labels", labels]
    for option, value in {"width": arguments.width, **options}.items():
        command += ["--model-options", f"{option}={json.dumps(value)}"]
    command += ["--classes", arguments.classes, "--epochs", str(epochs), "--epoch-samples", str(arguments.epoch_crops)]
    command += ["--optimiser.kind", "adamw", "--optimiser.lr", str(arguments.lr), "--schedule.kind", "poly"]
    command += ["--batch-size", "8", "--dtype", arguments.dtype]
    command += ["--augmentation.crop", arguments.crop, "--augmentation.scale", "0.6,1.6"]
    command += ["--teacher", arguments.teacher] if arguments.teacher else []
    command += ["--scaling.use-gpu"] if arguments.device == "cuda" else []
    subprocess.run(command, check=True)
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    best = max(records, key=lambda record: record["miou"])
    return best | {"bundle": str(output), "seconds": sum(record["train_s"] for record in records)}


def images_per_second(bundle: str, pixels: list[NDArray], arguments: argparse.Namespace) -> float:
    """Return the median speed over rounds; the pixels have one size."""
    network, card = load_bundle(bundle)
    device = torch.device(arguments.device)
    suit_cpu(network, device)
    segment = Segmenter(network, preprocessing=card.preprocessing, device=device, dtype=arguments.dtype)
    segment(pixels)
    seconds = []
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        segment(pixels)
        seconds.append(time.perf_counter() - start)
    return len(pixels) / statistics.median(seconds)


def batch_of_one_size(samples: list[Sample], count: int) -> list[NDArray]:
    """Return the pixels of images of the size that the first one has."""
    chosen: list[NDArray] = []
    for sample in samples:
        pixels, _ = read_image(sample.image)
        if not chosen or pixels.shape == chosen[0].shape:
            chosen.append(pixels)
        if len(chosen) == count:
            break
    return chosen


def draw(rows: list[dict[str, Any]]) -> tuple[bytes, bytes]:
    """Draw mIoU against images/s as PNG and SVG; the networks that no other beats in both are joined."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.scatter([row["images_per_second"] for row in rows], [row["miou"] for row in rows], color="tab:blue")
    for row in rows:
        axes.annotate(row["name"], (row["images_per_second"], row["miou"]), (4, 4), textcoords="offset points")
    best = [
        row
        for row in rows
        if not any(o["miou"] > row["miou"] and o["images_per_second"] > row["images_per_second"] for o in rows)
    ]
    best.sort(key=lambda row: row["images_per_second"])
    axes.plot([row["images_per_second"] for row in best], [row["miou"] for row in best], color="tab:red", alpha=0.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.25)  # for the names
    axes.set_xlabel("images/s")
    axes.set_ylabel("mIoU")
    axes.grid(alpha=0.3)
    return png_and_svg(figure)


def main() -> None:
    """Train and measure the networks, and write `zoo.json`, `zoo.png` and `zoo.svg`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs=2, required=True, metavar=("IMAGES", "LABELS"))
    parser.add_argument("--val", nargs=2, required=True, metavar=("IMAGES", "LABELS"))
    parser.add_argument("--classes", required=True)
    parser.add_argument("--output", required=True, help="local folder")
    parser.add_argument("--networks", nargs="+", default=list(ZOO), choices=list(ZOO))
    parser.add_argument("--crops", type=int, default=4000, help="crops that each network sees")
    parser.add_argument("--epoch-crops", type=int, default=500)
    parser.add_argument("--crop", default="240,320")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--teacher")
    arguments = parser.parse_args()

    pixels = batch_of_one_size(pair(*arguments.val).samples, arguments.batch)
    rows = []
    for name in arguments.networks:
        best = train(name, arguments)
        model, options = ZOO[name]
        network = models.configure(model, {"width": arguments.width, **options}).build(len(best["iou"]))
        rows.append(
            {
                "name": name,
                "parameters": models.count_parameters(network),
                "miou": best["miou"],
                "images_per_second": images_per_second(best["bundle"], pixels, arguments),
                "training_minutes": best["seconds"] / 60,
            }
        )
        row = rows[-1]
        print(
            f"{name:<20} {row['parameters'] / 1e6:7.2f} M  mIoU {row['miou']:.3f}  {row['images_per_second']:8.1f} "
            f"images/s  trained in {row['training_minutes']:.1f} min",
            flush=True,
        )
    output = Path(arguments.output)
    (output / "zoo.json").write_text(json.dumps({"arguments": vars(arguments), "networks": rows}, indent=2))
    png, svg = draw(rows)
    (output / "zoo.png").write_bytes(png)
    (output / "zoo.svg").write_bytes(svg)


if __name__ == "__main__":
    main()
