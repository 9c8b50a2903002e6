"""Random brightness, contrast, saturation, hue, gamma and blur of a training crop."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from pipeline.data.transforms.config import Augmentation


def change_colours(pixels: NDArray[np.uint8], settings: Augmentation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change the colours of an image, uint8 [height, width, 3], and blur it, as far as the settings allow."""
    image = Image.fromarray(pixels)
    for strength, enhancer in (
        (settings.brightness, ImageEnhance.Brightness),
        (settings.contrast, ImageEnhance.Contrast),
        (settings.saturation, ImageEnhance.Color),
    ):
        if strength:
            image = enhancer(image).enhance(float(rng.uniform(1 - strength, 1 + strength)))
    if settings.hue:
        image = rotate_hue(image, float(rng.uniform(-settings.hue, settings.hue)))
    if settings.gamma:
        # FRRN, section 4.2: gamma = log(1/2 + z/sqrt 2) / log(1/2 - z/sqrt 2), so that z and -z give inverse curves.
        z = float(rng.uniform(-settings.gamma, settings.gamma)) / 2**0.5
        gamma = np.log(0.5 + z) / np.log(0.5 - z)
        image = image.point(list(np.round(255 * np.linspace(0, 1, 256) ** gamma)) * 3)
    if rng.random() < settings.blur:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(*settings.blur_sigma))))
    return np.asarray(image)


def rotate_hue(image: Image.Image, degrees: float) -> Image.Image:
    """Rotate the hues of an RGB image by an angle, rounded to the 256 steps of Pillow's HSV."""
    hue, saturation, value = image.convert("HSV").split()
    step = round(degrees / 360 * 256)
    rotated = hue.point([(h + step) % 256 for h in range(256)])
    return Image.merge("HSV", (rotated, saturation, value)).convert("RGB")
