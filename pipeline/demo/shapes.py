"""Pictures of plain discs, striped squares and chequered triangles, with image labels, boxes and label maps.

They are data for weak supervision: a classifier learns from the image labels, and its maps are compared with the boxes
and label maps. Usage:

python -m pipeline.demo.shapes FOLDER [--count 600] [--seed 0]
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

NAMES = ("disc", "square", "triangle")
SIDE = 96
CLASS_FILE = "names: [background, disc, square, triangle]\nignore_index: 255\n"


def draw_shapes(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a picture of up to two different shapes.

    Returns:
        Image, uint8 [96, 96, 3], and label map, uint8 [96, 96]: 0 for background, k + 1 for `NAMES[k]`.
    """
    ground = rng.integers(60, 196, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    image = Image.fromarray(ground).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    labels = Image.new("L", (SIDE, SIDE), 0)
    for k in rng.permutation(len(NAMES))[: rng.choice(3, p=(0.2, 0.5, 0.3))]:
        mask = _mask(NAMES[k], rng)
        image.paste(_surface(NAMES[k], rng), mask=mask)
        labels.paste(int(k) + 1, mask=mask)
    noisy = np.asarray(image.filter(ImageFilter.GaussianBlur(0.5))) + rng.normal(0, 8, (SIDE, SIDE, 3))
    return noisy.clip(0, 255).astype(np.uint8), np.asarray(labels)


def _surface(name: str, rng: np.random.Generator) -> Image.Image:
    """Return a picture filled with the pattern of a shape, in two random colours."""
    rows, columns = np.indices((SIDE, SIDE)) // 4
    pattern = {"disc": 0 * rows, "square": rows % 2, "triangle": (rows + columns) % 2}[name]
    colours = rng.integers(0, 256, (2, 3), dtype=np.uint8)
    return Image.fromarray(colours[pattern])


def _mask(name: str, rng: np.random.Generator) -> Image.Image:
    """Draw the mask of a shape of random size, place and rotation, as a bilevel picture."""
    radius = rng.uniform(16, 28)
    centre = rng.uniform(radius, SIDE - radius, 2)
    mask = Image.new("1", (SIDE, SIDE), 0)
    draw = ImageDraw.Draw(mask)
    if name == "disc":
        draw.ellipse([*(centre - radius), *(centre + radius)], fill=1)
    else:
        corners = 4 if name == "square" else 3
        angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
        points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        draw.polygon([tuple(point) for point in points], fill=1)
    return mask


def write_shapes(folder: Path, *, count: int, seed: int) -> None:
    """Write `images/`, `labels/` (label maps), `labels.csv` (image labels), `boxes.csv` and `classes.yaml`."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w") as tags, (folder / "boxes.csv").open("w") as boxes:
        tag_rows, box_rows = csv.writer(tags), csv.writer(boxes)
        tag_rows.writerow(["image", "labels"])
        box_rows.writerow(["image", "class", "xmin", "ymin", "xmax", "ymax"])
        for i in range(count):
            pixels, labels = draw_shapes(np.random.default_rng([seed, i]))
            stem = f"{seed}-{i:05d}"
            Image.fromarray(pixels).save(folder / "images" / f"{stem}.png")
            Image.fromarray(labels).save(folder / "labels" / f"{stem}.png")
            present = [k for k in range(len(NAMES)) if (labels == k + 1).any()]
            tag_rows.writerow([f"{stem}.png", ";".join(NAMES[k] for k in present)])
            for k in present:
                rows, columns = np.nonzero(labels == k + 1)
                corners = [columns.min(), rows.min(), columns.max(), rows.max()]
                box_rows.writerow([f"{stem}.png", NAMES[k], *map(int, corners)])
    (folder / "classes.yaml").write_text(CLASS_FILE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write to")
    parser.add_argument("--count", type=int, default=600, help="number of pictures")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random numbers")
    options = parser.parse_args()
    write_shapes(options.folder, count=options.count, seed=options.seed)
    print(f"{options.count} pictures in {options.folder}")
