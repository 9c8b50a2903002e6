"""Training against torchvision's reference loop: `python -m benchmarks.training [--workers 1]`.

The peer is what torchvision's `references/segmentation` does: one process, a DataLoader with as many workers as cores,
transforms.v2 (random resize, flip, crop), cross-entropy, SGD with the poly schedule. Ours is the whole job: Ray Train,
and crops drawn by tasks. Both train the same network on the same drawn scenes, with the same batch, crop, augmentation
and threads; images/s are those of whole epochs without validation, the first of each run left out.
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
from pipeline.training.config import Optimiser
from pipeline.training.run import train
from pipeline.training.segmentation.config import Split, TrainConfig
from pipeline.training.segmentation.task import segmentation_task

CROP = (240, 320)
SIZE = (480, 360)  # width, height of the scenes
SCALE = (0.5, 2.0)
CLASSES = 6
LR = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=4, help="the first is left out of the rates")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=float, default=0.25, help="width multiplier of DeepLab v3 on ResNet-18")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turns")
    parser.add_argument("--workers", type=int, default=1, help="of ours; the peer has one process")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_scenes_of_one_size(data, told.images)
        cluster.connect(dashboard=True)
        ours: list[float] = []
        theirs: list[float] = []
        records: list[dict[str, Any]] = []
        for turn in range(told.rounds):  # in turns: what the machine does besides hits both
            theirs += reference_loop(data, told)
            records = our_run(data, Path(folder) / f"out{turn}", told)
            ours += [record["images_per_s"] for record in records[1:]]
        report(ours, theirs, records, told)
        print(f"checkpoint: {checkpoint_cost(told):.0f} ms before training goes on; the upload is in the background")
    ray.shutdown()


def write_scenes_of_one_size(folder: Path, count: int) -> None:
    """Images and labels of 480x360, for training, and one for validation."""
    for part, images in (("train", count), ("val", 1)):
        for kind in ("images", "labels"):
            (folder / part / kind).mkdir(parents=True)
        for i in range(images):
            pixels, labels = draw_scene(np.random.default_rng(i % 50), *SIZE)
            Image.fromarray(pixels).save(folder / part / "images" / f"{i:05d}.jpg", quality=90)
            Image.fromarray(labels).save(folder / part / "labels" / f"{i:05d}.png")
    (folder / "classes.yaml").write_text(CLASS_FILE)


class Scenes(Dataset):
    """The peer's data set: transforms as in torchvision's reference, `SegmentationPresetTrain`."""

    def __init__(self, folder: Path, steps: int, batch: int):
        self.images = sorted((folder / "train" / "images").iterdir())
        self.labels = sorted((folder / "train" / "labels").iterdir())
        self.length = steps * batch
        base = SIZE[1]  # the scenes' shorter side: a scale of 1 leaves them as they are
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


def reference_loop(data: Path, told: argparse.Namespace) -> list[float]:
    """Images/s of each epoch but the first."""
    torch.set_num_threads(cluster.cpu_count())
    torch.manual_seed(0)
    steps = told.images // told.batch
    network = configure("deeplabv3_resnet18", {"width": told.width}).build(CLASSES)
    network = network.to(memory_format=torch.channels_last).train()
    stride: int = network.output_stride  # type: ignore[assignment]
    optimiser = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, steps * told.epochs, 0.9)
    loader = DataLoader(
        Scenes(data, steps, told.batch),
        batch_size=told.batch,
        shuffle=True,
        num_workers=cluster.cpu_count(),
        persistent_workers=True,
        drop_last=True,
    )
    rates = []
    for _ in range(told.epochs):
        start = time.perf_counter()
        for images, labels in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=told.dtype == "bfloat16"):
                output = network(images.contiguous(memory_format=torch.channels_last))
            scores = upsample(output.logits.float(), CROP, stride=stride)
            loss = torch.nn.functional.cross_entropy(scores, labels.long(), ignore_index=255)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            loss.item()  # the reference logs it at each step
        rates.append(steps * told.batch / (time.perf_counter() - start))
    return rates[1:]


def our_run(data: Path, output: Path, told: argparse.Namespace) -> list[dict[str, Any]]:
    """The records of a run of ours."""
    config = TrainConfig(
        model="deeplabv3_resnet18",
        model_options={"width": told.width},
        train=Split(images=str(data / "train" / "images"), labels=str(data / "train" / "labels")),
        val=Split(images=str(data / "val" / "images"), labels=str(data / "val" / "labels")),
        classes=str(data / "classes.yaml"),
        output=str(output),
        epochs=told.epochs,
        batch_size=told.batch,
        dtype=told.dtype,
        augmentation=Augmentation(crop=CROP, scale=SCALE),
        optimiser=Optimiser(lr=LR),
        scaling=TrainingScaling(num_workers=told.workers),
    )
    return train(config, *segmentation_task(config))


def report(ours: list[float], theirs: list[float], records: list[dict[str, Any]], told: argparse.Namespace) -> None:
    wait = np.mean([record["data_wait"] for record in records[1:]])
    print(f"\nDeepLab v3, ResNet-18, width {told.width}, batch {told.batch}, {told.dtype}, {cluster.cpu_count()} cores")
    print(f"torchvision's reference loop  {np.median(theirs):6.1f} images/s")
    print(f"ours, {told.workers} worker(s)             {np.median(ours):6.1f} images/s   ", end="")
    print(f"{np.median(ours) / np.median(theirs):.2f} x the loop; {wait:.1%} of the time waiting for data")
    print(json.dumps({"ours": [round(r, 1) for r in ours], "theirs": [round(r, 1) for r in theirs]}))


def checkpoint_cost(told: argparse.Namespace) -> float:
    """Milliseconds of a state's way to a local file, which is what training waits for."""
    network = configure("deeplabv3_resnet18", {"width": told.width}).build(CLASSES)
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
