"""Small pictures for the galleries of pages: photographs as JPEG, painted labels and heatmaps as PNG."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.images import colourize

SIDE = 320  # pixels of the longer side
QUALITY = 80


def small_size(pixels: NDArray) -> tuple[int, int]:
    """Return width and height of the thumbnail of an array [height, width, …]; small images keep their size."""
    height, width = pixels.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))


def photograph(pixels: NDArray[np.uint8]) -> bytes:
    """Return the thumbnail of an image [height, width, 3] as JPEG."""
    image = Image.fromarray(np.ascontiguousarray(pixels)).resize(small_size(pixels), Image.Resampling.BOX)
    return _encoded(image, "JPEG", quality=QUALITY, optimize=True)


def painted(labels: NDArray, palette: NDArray[np.uint8]) -> bytes:
    """Return the thumbnail of labels [height, width] as PNG with the exact colours of the classes.

    Labels outside the palette, such as the ignore index, are transparent.
    """
    width, height = small_size(labels)
    rows = (np.arange(height) + 0.5) * labels.shape[0] / height
    columns = (np.arange(width) + 0.5) * labels.shape[1] / width
    small = labels[rows.astype(int)[:, None], columns.astype(int)]
    inside = (small >= 0) & (small < len(palette))
    if len(palette) < 256:
        image = Image.fromarray(np.where(inside, small, len(palette)).astype(np.uint8))
        image.putpalette(np.vstack([palette, np.zeros((1, 3), np.uint8)]).tobytes())
        return _encoded(image, "PNG", optimize=True, transparency=len(palette))
    colours = np.dstack([colourize(small, palette), np.where(inside, 255, 0).astype(np.uint8)])
    return _encoded(Image.fromarray(colours), "PNG", optimize=True)


def heat(values: NDArray) -> bytes:
    """Return the thumbnail of a map [height, width] in 0..1 as PNG: red, and transparent where the map is low."""
    level = np.asarray(Image.fromarray(np.clip(values, 0, 1).astype(np.float32)).resize(small_size(values)))
    steps = np.round(level * 15).astype(np.uint8)  # few levels compress well
    ramp = np.array([(round(255 * min(1, 0.5 + k / 20)), round(160 * (1 - k / 15)), 40) for k in range(16)], np.uint8)
    alpha = np.linspace(0, 215, 16).astype(np.uint8)
    image = Image.fromarray(steps)
    image.putpalette(ramp.tobytes())
    return _encoded(image, "PNG", optimize=True, transparency=alpha.tobytes())


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
