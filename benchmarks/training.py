"""Training speed compared with torchvision's reference loop: `python -m benchmarks.training [--workers 1]`.

The reference follows torchvision's `references/segmentation`: one process, a DataLoader with as many workers as cores,
transforms.v2 (random resize, flip, crop), cross-entropy, and SGD with the poly schedule. Ours is the whole job, with
Ray Train and crops drawn by tasks. Both train the same network on the same generated scenes, with the same batch size,
crop size, augmentation and threads. Images per second are measured over whole epochs without validation, except for the
first epoch of each run.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline import cluster
from pipeline.data.transforms.config import Augmentation
from pipeline.demo.scenes import CLASS_FILE, draw_scene
from pipeline.models import configure
from pipeline.models.upsampling import upsample
from pipeline.training.config import Optimiser, TrainingScaling
from pipeline.training.run import train
from pipeline.training.segmentation.config import Split, TrainConfig
from pipeline.training.segmentation.task import segmentation_task

CROP = (240, 320)
SIZE = (480, 360)  # width, height of the scenes
SCALE = (0.5, 2.0)
CLASSES = 6
LR = 0.01


def main() -> None:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=160, help="training images")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of a run; the first is not measured")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--width", type=float, default=0.25, help="width multiplier of DeepLab v3 on ResNet-18")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side, in turns")
    parser.add_argument("--workers", type=int, default=1, help="workers of ours; the reference has one process")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_scenes_of_one_size(data, arguments.images)
        cluster.connect(dashboard=True)
        ours: list[float] = []
        theirs: list[float] = []
        records: list[dict[str, Any]] = []
        for turn in range(arguments.rounds):  # in turns, so that other load on the machine affects both
            theirs += reference_loop(data, arguments)
            records = our_run(data, Path(folder) / f"out{turn}", arguments)
            ours += [record["images_per_s"] for record in records[1:]]
        report(ours, theirs, records, arguments)
        print(
            f"checkpoint: {checkpoint_cost(arguments):.0f} ms before training goes on; the upload is in the background"
        )
    ray.shutdown()


def write_scenes_of_one_size(folder: Path, count: int) -> None:
    """Write images and labels of 480x360: `count` for training, and one for validation."""
    for part, images in (("train", count), ("val", 1)):
        for kind in ("images", "labels"):
            (folder / part / kind).mkdir(parents=True)
        for i in range(images):
            pixels, labels = draw_scene(np.random.default_rng(i % 50), *SIZE)
            Image.fromarray(pixels).save(folder / part / "images" / f"{i:05d}.jpg", quality=90)
            Image.fromarray(labels).save(folder / part / "labels" / f"{i:05d}.png")
    (folder / "classes.yaml").write_text(CLASS_FILE)


class Scenes(Dataset):
    """The data set of the reference, with the transforms of torchvision's `SegmentationPresetTrain`.

    Args:
        folder: Data that `write_scenes_of_one_size` wrote.
        steps: Steps of an epoch.
        batch_size: Images in a step.
    """

    def __init__(self, folder: Path, steps: int, batch_size: int):
        self.images = sorted((folder / "train" / "images").iterdir())
        self.labels = sorted((folder / "train" / "labels").iterdir())
        self.length = steps * batch_size
        base = SIZE[1]  # the scenes' shorter side, so that a scale of 1 keeps their size
        self.transform = v2.Compose(
            [
                v2.RandomResize(min_size=int(SCALE[0] * base), max_size=int(SCALE[1] * base)),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomCrop(CROP, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: 255}),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        i = index % len(self.images)
        image = tv_tensors.Image(v2.functional.pil_to_tensor(Image.open(self.images[i]).convert("RGB")))
        mask = tv_tensors.Mask(v2.functional.pil_to_tensor(Image.open(self.labels[i]))[0].long())
        return self.transform(image, mask)


def reference_loop(data: Path, arguments: argparse.Namespace) -> list[float]:
    """Train with the reference, and return the images per second of each epoch except for the first."""
    torch.set_num_threads(cluster.cpu_count())
    torch.manual_seed(0)
    steps = arguments.images // arguments.batch_size
    network = configure("deeplabv3_resnet18", {"width": arguments.width}).build(CLASSES)
    network = network.to(memory_format=torch.channels_last).train()
    stride: int = network.output_stride  # type: ignore[assignment]
    optimiser = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, steps * arguments.epochs, 0.9)
    loader = DataLoader(
        Scenes(data, steps, arguments.batch_size),
        batch_size=arguments.batch_size,
        shuffle=True,
        num_workers=cluster.cpu_count(),
        persistent_workers=True,
        drop_last=True,
    )
    rates = []
    for _ in range(arguments.epochs):
        start = time.perf_counter()
        for images, labels in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
                output = network(images.contiguous(memory_format=torch.channels_last))
            scores = upsample(output.logits.float(), CROP, stride=stride)
            loss = torch.nn.functional.cross_entropy(scores, labels.long(), ignore_index=255)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            loss.item()  # the reference logs the loss of each step
        rates.append(steps * arguments.batch_size / (time.perf_counter() - start))
    return rates[1:]


def our_run(data: Path, output: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train with our job, and return its records."""
    config = TrainConfig(
        model="deeplabv3_resnet18",
        model_options={"width": arguments.width},
        train=Split(images=str(data / "train" / "images"), labels=str(data / "train" / "labels")),
        val=Split(images=str(data / "val" / "images"), labels=str(data / "val" / "labels")),
        classes=str(data / "classes.yaml"),
        output=str(output),
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
        augmentation=Augmentation(crop=CROP, scale=SCALE),
        optimiser=Optimiser(lr=LR),
        scaling=TrainingScaling(num_workers=arguments.workers),
    )
    return train(config, *segmentation_task(config))


def report(
    ours: list[float], theirs: list[float], records: list[dict[str, Any]], arguments: argparse.Namespace
) -> None:
    """Print the median images per second of both sides, and their ratio."""
    wait = np.mean([record["data_wait"] for record in records[1:]])
    setting = f"width {arguments.width}, batch {arguments.batch_size}, {arguments.dtype}, {cluster.cpu_count()} cores"
    print(f"\nDeepLab v3, ResNet-18, {setting}")
    print(f"torchvision's reference loop  {np.median(theirs):6.1f} images/s")
    print(f"ours, {arguments.workers} worker(s)             {np.median(ours):6.1f} images/s   ", end="")
    print(f"{np.median(ours) / np.median(theirs):.2f} x the loop; {wait:.1%} of the time waiting for data")
    print(json.dumps({"ours": [round(r, 1) for r in ours], "theirs": [round(r, 1) for r in theirs]}))


def checkpoint_cost(arguments: argparse.Namespace) -> float:
    """Return the milliseconds to save a checkpoint to a local file, for which training waits."""
    network = configure("deeplabv3_resnet18", {"width": arguments.width}).build(CLASSES)
    optimiser = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(5):
            start = time.perf_counter()
            torch.save({"network": network.state_dict(), "optimiser": optimiser.state_dict()}, f"{folder}/state.pt")
            times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


if __name__ == "__main__":
    main()
