"""What colours a training crop has: brightness, contrast, saturation, hue, gamma, blur. Labels stay."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from pipeline.data.transforms.config import Augmentation


def change_colours(pixels: NDArray[np.uint8], settings: Augmentation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Pixels uint8 [height, width, 3] in other light, through another lens."""
    image = Image.fromarray(pixels)
    for strength, enhancer in (
        (settings.brightness, ImageEnhance.Brightness),
        (settings.contrast, ImageEnhance.Contrast),
        (settings.saturation, ImageEnhance.Color),
    ):
        if strength:
            image = enhancer(image).enhance(float(rng.uniform(1 - strength, 1 + strength)))
    if settings.hue:
        image = _turned(image, float(rng.uniform(-settings.hue, settings.hue)))
    if settings.gamma:
        # FRRN, section 4.2: log(1/2 + z/sqrt 2) / log(1/2 - z/sqrt 2), symmetric about 1 in its effect.
        z = float(rng.uniform(-settings.gamma, settings.gamma)) / 2**0.5
        gamma = np.log(0.5 + z) / np.log(0.5 - z)
        image = image.point(list(np.round(255 * np.linspace(0, 1, 256) ** gamma)) * 3)
    if rng.random() < settings.blur:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(*settings.blur_sigma))))
    return np.asarray(image)


def _turned(image: Image.Image, degrees: float) -> Image.Image:
    """Hues turned on the colour circle, which HSV has in 256 steps."""
    hue, saturation, value = image.convert("HSV").split()
    step = round(degrees / 360 * 256)
    turned = hue.point([(h + step) % 256 for h in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
