"""Small outdoor scenes with exact label maps, for the demo, the tests and the benchmarks.

A scene is a stack of shapes, each with a class. First a map of shape numbers is drawn. The label map and the image are
both derived from it, so they agree to the pixel. The image then gets texture and light.
"""

import io
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pipeline.data.images import encode_mask

CLASS_FILE = """\
names: [sky, grass, road, house, tree, car]
colours:
  - [112, 168, 220]
  - [124, 176, 80]
  - [120, 116, 124]
  - [196, 92, 72]
  - [36, 104, 52]
  - [236, 196, 48]
ignore_index: 255
"""
SKY, GRASS, ROAD, HOUSE, TREE, CAR = range(6)
PALETTE = np.array(
    [[112, 168, 220], [124, 176, 80], [120, 116, 124], [196, 92, 72], [36, 104, 52], [236, 196, 48]], np.uint8
)
SIZES = ((160, 120), (192, 144), (128, 160), (176, 176), (224, 128))  # width, height


@dataclass
class _Canvas:
    """The shapes drawn so far: a map of their numbers, and the class and colour of each shape."""

    width: int
    height: int
    rng: np.random.Generator
    numbers: Image.Image = field(init=False)
    classes: list[int] = field(default_factory=list)
    colours: list[NDArray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.numbers = Image.new("I", (self.width, self.height), 0)
        self.draw = ImageDraw.Draw(self.numbers)

    def add_shape(self, label: int, colour: tuple[float, float, float], spread: float = 18) -> int:
        """Register a shape and return its number; `spread` is the standard deviation of its colour."""
        self.classes.append(label)
        self.colours.append(np.array(colour) + self.rng.normal(0, spread, 3))
        return len(self.classes) - 1


def draw_scene(rng: np.random.Generator, width: int, height: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a scene.

    Args:
        rng: The only source of randomness.
        width: Width in pixels.
        height: Height in pixels.

    Returns:
        Image, uint8 [height, width, 3], and class indices, uint8 [height, width].
    """
    canvas = _Canvas(width, height, rng)
    horizon = int(height * rng.uniform(0.3, 0.55))
    evening = rng.random() < 0.3
    sky = (236, 160, 110) if evening else (130, 180, 235)
    canvas.draw.rectangle((0, 0, width, height), fill=canvas.add_shape(SKY, sky))
    grass = canvas.add_shape(GRASS, (120, 150, 60))
    hills = [
        (x, horizon + int(rng.integers(-height // 20, height // 20 + 1))) for x in range(-20, width + 40, width // 5)
    ]
    canvas.draw.polygon([*hills, (width, height), (0, height)], fill=grass)
    for _ in range(rng.integers(1, 4)):
        _house(canvas, horizon)
    for _ in range(rng.integers(1, 5)):
        _tree(canvas, horizon)
    road = _road(canvas, horizon)
    for _ in range(rng.integers(0, 4)):
        _car(canvas, horizon, road)
    if rng.random() < 0.4:
        _tree(canvas, horizon + height // 6)
    return _render(canvas, evening)


def _house(canvas: _Canvas, horizon: int) -> None:
    rng, size = canvas.rng, canvas.height
    w, h = rng.uniform(0.15, 0.35) * size, rng.uniform(0.15, 0.4) * size
    x, bottom = rng.uniform(-0.1, 1) * canvas.width, horizon + rng.uniform(0.02, 0.15) * size
    walls = ((200, 90, 70), (225, 215, 190), (170, 140, 110), (150, 150, 165))
    wall = canvas.add_shape(HOUSE, walls[rng.integers(len(walls))])
    canvas.draw.rectangle((x, bottom - h, x + w, bottom), fill=wall)
    roof = canvas.add_shape(HOUSE, (120, 50, 40))
    peak = (x + w / 2, bottom - h - rng.uniform(0.2, 0.5) * w)
    canvas.draw.polygon([(x - 0.08 * w, bottom - h), (x + 1.08 * w, bottom - h), peak], fill=roof)
    window = canvas.add_shape(HOUSE, (60, 70, 90))
    for i in range(int(rng.integers(1, 4))):
        left = x + w * (0.12 + 0.3 * i)
        canvas.draw.rectangle((left, bottom - 0.7 * h, left + 0.15 * w, bottom - 0.4 * h), fill=window)


def _tree(canvas: _Canvas, horizon: int) -> None:
    rng, size = canvas.rng, canvas.height
    r = rng.uniform(0.06, 0.17) * size
    x, bottom = rng.uniform(0, 1) * canvas.width, horizon + rng.uniform(0.0, 0.25) * size
    trunk = canvas.add_shape(TREE, (90, 65, 40))
    canvas.draw.rectangle((x - 0.15 * r, bottom - 1.5 * r, x + 0.15 * r, bottom), fill=trunk)
    crown = canvas.add_shape(TREE, (40, 100, 45))
    if rng.random() < 0.5:
        canvas.draw.polygon([(x - r, bottom - r), (x + r, bottom - r), (x, bottom - 4 * r)], fill=crown)
    else:
        for dx, dy in ((0, -2.2), (-0.6, -1.7), (0.6, -1.7)):
            cx, cy = x + dx * r, bottom + dy * r
            canvas.draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=crown)


def _road(canvas: _Canvas, horizon: int) -> tuple[float, float, float]:
    """Draw a road; return its x and half width at the bottom of the image, and its x at the horizon."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    near, far = rng.uniform(0.2, 0.8) * width, rng.uniform(0.3, 0.7) * width
    half = rng.uniform(0.18, 0.4) * width
    surface = canvas.add_shape(ROAD, (105, 100, 108))
    top = horizon + height // 12
    canvas.draw.polygon([(near - half, height), (near + half, height), (far + 4, top), (far - 4, top)], fill=surface)
    line = canvas.add_shape(ROAD, (215, 215, 205))
    canvas.draw.line([(near, height), (far, top)], fill=line, width=max(1, height // 70))
    return near, half, far


def _car(canvas: _Canvas, horizon: int, road: tuple[float, float, float]) -> None:
    rng, height = canvas.rng, canvas.height
    near, half, far = road
    depth = rng.uniform(0.25, 0.95)  # 0 at the horizon, 1 at the viewer
    y = horizon + height / 12 + depth * (height - horizon - height / 12)
    x = far + depth * (near - far) + rng.uniform(-0.5, 0.5) * half * depth
    w = (0.1 + 0.22 * depth) * height
    paints = ((210, 40, 40), (240, 200, 40), (40, 60, 170), (235, 235, 240), (30, 30, 35))
    body = canvas.add_shape(CAR, paints[rng.integers(len(paints))])
    canvas.draw.rectangle((x - w / 2, y - 0.35 * w, x + w / 2, y - 0.1 * w), fill=body)
    canvas.draw.polygon(
        [
            (x - 0.35 * w, y - 0.35 * w),
            (x + 0.35 * w, y - 0.35 * w),
            (x + 0.22 * w, y - 0.6 * w),
            (x - 0.22 * w, y - 0.6 * w),
        ],
        fill=canvas.add_shape(CAR, (70, 85, 105)),
    )
    wheel = canvas.add_shape(CAR, (25, 25, 25), spread=6)
    for dx in (-0.3, 0.3):
        cx = x + dx * w
        canvas.draw.ellipse((cx - 0.1 * w, y - 0.18 * w, cx + 0.1 * w, y + 0.02 * w), fill=wheel)


def _render(canvas: _Canvas, evening: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return image and label map: colours with a texture by class, light from one side, some noise and blur."""
    rng, width, height = canvas.rng, canvas.width, canvas.height
    numbers = np.asarray(canvas.numbers)
    labels = np.array(canvas.classes, np.uint8)[numbers]
    picture = np.array(canvas.colours)[numbers]
    roughness = np.array([3.0, 16.0, 7.0, 8.0, 22.0, 4.0])[labels]
    coarse = Image.fromarray(rng.normal(0, 1, (height // 4 + 1, width // 4 + 1)).astype(np.float32))
    texture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + 0.5 * rng.normal(
        0, 1, (height, width)
    )
    picture += (roughness * texture)[:, :, None]
    light = np.linspace(-1, 1, width)[None, :] * rng.uniform(-25, 25) + np.linspace(1, -1, height)[:, None] * 12
    picture = (picture + light[:, :, None]) * (0.75 if evening else 1.0)
    picture += rng.normal(0, 4, picture.shape)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.5))
    return np.asarray(image), labels


def write_scenes(folder: Path, *, count: int, seed: int) -> None:
    """Draw scenes of several sizes to `folder/images` (JPEG, every fourth PNG) and `folder/labels` (indexed PNG)."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        pixels, labels = draw_scene(rng, *SIZES[int(rng.integers(len(SIZES)))])
        suffix = ".png" if i % 4 == 3 else ".jpg"
        Image.fromarray(pixels).save(folder / "images" / f"scene_{i:05d}{suffix}", quality=90)
        (folder / "labels" / f"scene_{i:05d}.png").write_bytes(encode_mask(labels, PALETTE))


def write_broken(folder: Path) -> int:
    """Add unusable files to `folder/images`, each broken in a different way, and return their number."""
    images = folder / "images"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8))
    jpeg, png = (_encode(noise, kind) for kind in ("JPEG", "PNG"))
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + png[24:29]
    broken = {
        "broken_empty.jpg": b"",
        "broken_truncated.jpg": jpeg[: len(jpeg) // 2],
        "broken_text.jpg": b"<html><body>404 Not Found</body></html>",
        "broken_damaged.png": png[:1000] + bytes(1000) + png[2000:],
        # The header has a valid checksum and claims 60,000 x 60,000 pixels.
        "broken_bomb.png": png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:],
    }
    for name, data in broken.items():
        (images / name).write_bytes(data)
    return len(broken)


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
