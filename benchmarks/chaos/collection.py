"""What the runs compute: drawn scenes, broken files among them, and a small network, on an S3 server."""

import io
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import nn

from pipeline import storage
from pipeline.bundle import save_bundle
from pipeline.card import Card
from pipeline.data.classes import load_classes
from pipeline.demo.scenes import CLASS_FILE, draw_scene, write_broken
from pipeline.models import configure
from pipeline.predict.device import normalise
from pipeline.threads import in_order

SIZES = ((128, 96), (96, 128), (112, 112))  # width, height
BROKEN_SHARE = 0.02
SEED = 0  # the collection is the same for every seed of the faults


def store_images(url: str, count: int) -> None:
    """Store images, of which some are broken."""
    broken = round(BROKEN_SHARE * count)
    for _ in in_order(lambda item: storage.write_bytes(storage.join(url, item[0]), item[1]), _files(count, broken)):
        pass


def _files(count: int, broken: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents; the broken files are spread over the names, and so over the shards."""
    with TemporaryDirectory() as folder:
        Path(folder, "images").mkdir()
        write_broken(Path(folder))
        damaged = [(file.name, file.read_bytes()) for file in sorted(Path(folder, "images").iterdir())]
    places = set(random.Random(SEED).sample(range(count), broken))
    for i in range(count):
        if i in places:
            name, data = damaged[i % len(damaged)]
            yield f"{i:05d}_{name}", data
        else:
            yield f"{i:05d}.jpg", _draw(i)


def _draw(number: int) -> bytes:
    rng = np.random.default_rng([SEED, number])
    pixels, _ = draw_scene(rng, *SIZES[number % len(SIZES)])
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def store_network(url: str) -> None:
    """Store a narrow DeepLab with random weights, whose masks differ from image to image."""
    torch.manual_seed(SEED)
    with TemporaryDirectory() as folder:
        class_file = Path(folder, "classes.yaml")
        class_file.write_text(CLASS_FILE)
        classes = load_classes(str(class_file))
    card = Card(architecture="deeplabv3_resnet18", options={"width": 0.125}, classes=classes)
    network = configure(card.architecture, card.options).build(len(classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.std() < 0.02:  # score layers start close to zero
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    _settle(network, card)
    save_bundle(url, network, card)


@torch.no_grad()
def _settle(network: nn.Module, card: Card) -> None:
    """Set the statistics of the batch normalisations to those of some images: without them, all masks are alike."""
    scenes = [draw_scene(np.random.default_rng([SEED, i]), *SIZES[0])[0] for i in range(8)]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(normalise(torch.from_numpy(np.stack(scenes)), card.preprocessing))
    for norm in norms:
        norm.momentum = 0.1
    network.eval()
