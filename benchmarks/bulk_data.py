"""Images and a network to be segmented with, for `benchmarks.bulk`."""

import os
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline import bundle
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.demo.scenes import draw_scene
from pipeline.models import configure

DRAWN_SIZE = (480, 360)  # width and height without a GPU
DRAWN = 50  # different scenes; they repeat
SUFFIXES = (".jpg", ".jpeg", ".png")  # what every peer reads


def draw_scenes(folder: Path, size: tuple[int, int]) -> list[Path]:
    """Draw scenes as JPEG files of quality 90.

    Args:
        folder: Folder for the files; it is made.
        size: Width and height in pixels.
    """
    folder.mkdir()
    files = []
    for i in range(DRAWN):
        pixels, _ = draw_scene(np.random.default_rng(i), *size)
        files.append(folder / f"{i}.jpg")
        Image.fromarray(pixels).save(files[-1], quality=90)
    return files


def photographs(folder: Path) -> list[Path]:
    """Return the JPEG and PNG files in a folder and below it."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)


def copies(files: list[Path], folder: Path) -> list[Path]:
    """Copy files to a folder, which is made; their names become numbers."""
    folder.mkdir()
    return [Path(shutil.copyfile(file, folder / f"{i}{file.suffix.lower()}")) for i, file in enumerate(files)]


def repeated(files: list[Path], count: int, folder: Path) -> Path:
    """Return a folder of `count` links to files, which are repeated; it is made if it does not exist."""
    if not folder.exists():
        folder.mkdir()
        for i in range(count):
            file = files[i % len(files)]
            os.link(file, folder / f"{i:07d}{file.suffix}")
    return folder


def mean_pixels(files: list[Path]) -> float:
    """Return the mean number of pixels of images."""
    total = 0
    for file in files:
        with Image.open(file) as image:
            total += image.width * image.height
    return total / len(files)


def save_random_bundle(url: str, architecture: str, width: float) -> Card:
    """Write a bundle with random weights for the classes of the drawn scenes, and return its card."""
    classes = Classes(names=("sky", "grass", "road", "house", "tree", "car"))
    card = Card(architecture=architecture, options={"width": width}, classes=classes)
    torch.manual_seed(0)
    return bundle.save_bundle(url, configure(architecture, card.options).build(len(classes)), card)
