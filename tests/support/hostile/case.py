"""A file of the hostile corpus, and what must become of it."""

import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# How far a lossy copy of a smooth image may be from it, on average.
LOSSY = 8.0


@dataclass(frozen=True)
class Case:
    """A file, and what must become of it.

    Attributes:
        name: Path below the folder of the corpus.
        data: The file.
        pixels: The upright image that it must be decoded to; None if it must or may be refused.
        tolerance: Largest mean difference from these pixels.
        refused: Pattern of the message with which it must be refused; empty if it must or may be decoded.
    """

    name: str
    data: bytes
    pixels: NDArray[np.uint8] | None = None
    tolerance: float = 0.0
    refused: str = ""

    def check_pixels(self, decoded: NDArray[np.uint8]) -> None:
        """Assert that the image was decoded rightly, if it had to be decoded."""
        assert not self.refused, f"{self.name!r} was decoded, and should be refused as {self.refused}"
        if self.pixels is not None:
            assert decoded.shape == self.pixels.shape, f"{self.name!r}: {decoded.shape}"
            difference = np.abs(decoded.astype(int) - self.pixels).mean()
            assert difference <= self.tolerance, f"{self.name!r} differs by {difference}"

    def check_message(self, message: str) -> None:
        """Assert that the image was refused with a clear line, if it may be refused."""
        assert self.pixels is None, f"{self.name!r} was refused, and is good: {message}"
        assert message, self.name
        assert "\n" not in message, f"{self.name!r}: {message}"
        assert re.search(self.refused, message), f"{self.name!r}: {message}"


def picture(seed: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """Return a smooth image in colours, of which no two seeds have the same, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / (height + width)
    slopes, offsets = rng.uniform(-120, 120, (2, 3)), rng.uniform(90, 165, 3)
    return np.clip(offsets + y[..., None] * slopes[0] + x[..., None] * slopes[1], 0, 255).astype(np.uint8)


def noise(seed: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """Return an image that no format compresses well, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image: Image.Image | NDArray[Any], kind: str, **options: Any) -> bytes:
    """Encode an image with Pillow."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()
