"""Peak memory of decoding an image in each format, and of segmenting a large image in windows, on one core.

python -m benchmarks.large_images [--side 20000] [--decode-side 6000]

Every figure is measured in a process of its own. The network that segments consists of two convolutions, so that the
memory is that of the windows and not that of a network.
"""

import io
import multiprocessing
import time
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from benchmarks.measure import peak_growth
from pipeline import cli

FORMATS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "JPEG": ("RGB", "JPEG", {"quality": 90}),
    "JPEG, grey": ("L", "JPEG", {"quality": 90}),
    "PNG": ("RGB", "PNG", {"compress_level": 1}),
    "PNG, palette": ("P", "PNG", {"compress_level": 1}),
    "TIFF": ("RGB", "TIFF", {}),
    "TIFF, LZW": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "WebP": ("RGB", "WEBP", {"quality": 80, "method": 0}),
    "JPEG 2000": ("RGB", "JPEG2000", {}),
}


class LargeImagesConfig(BaseModel):
    """The options of `python -m benchmarks.large_images`."""

    side: int = Field(default=20_000, ge=64, description="side of the square image that is segmented, in pixels")
    decode_side: int = Field(default=6000, ge=64, description="side of the square images that are decoded, in pixels")
    classes: int = Field(default=21, ge=2, description="classes of the network")
    strides: tuple[int, ...] = Field(default=(8, 1), description="output strides of the networks")


def main(argv: list[str]) -> None:
    """Measure and print."""
    config = cli.parse(LargeImagesConfig, argv, description=__doc__ or "")
    # A pool of one worker, which is replaced after each task.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name in FORMATS:
            data = pool.apply(_encode, (name, config.decode_side))
            peak = pool.apply(_decode, (data,)) / config.decode_side**2
            print(f"decoding {name}: {peak:.1f} bytes per pixel", flush=True)
        for stride in config.strides:
            for keep_scores in (False, True) if stride > 1 else (False,):
                start = time.perf_counter()
                peak = pool.apply(_segment, (config.side, config.classes, stride, keep_scores))
                result = config.side**2 + 2 * config.classes * (-(-config.side // stride)) ** 2 * keep_scores
                print(
                    f"{config.side}x{config.side}, {config.classes} classes, stride {stride}, "
                    f"{'with' if keep_scores else 'without'} the score map: {peak / 2**20:.0f} MiB besides the image, "
                    f"of which {result / 2**20:.0f} MiB are the result; {time.perf_counter() - start:.0f} s",
                    flush=True,
                )


def _encode(name: str, side: int) -> bytes:
    from PIL import Image

    mode, kind, options = FORMATS[name]
    coarse = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    (image.quantize(32, method=2) if mode == "P" else image.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


def _decode(data: bytes) -> int:
    from pipeline.data.images import decode_image

    return peak_growth(lambda: decode_image(data, max_pixels=10**9))


def _segment(side: int, classes: int, stride: int, keep_scores: bool) -> int:
    import torch
    from torch import Tensor, nn

    from pipeline.data.preprocessing import Preprocessing
    from pipeline.models.layers import SegmentationOutput
    from pipeline.predict.segmenter import Segmenter

    class Small(nn.Module):
        output_stride = stride

        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Conv2d(3, 8, stride, stride=stride)
            self.score = nn.Conv2d(8, classes, 3, padding=1)

        def forward(self, images: Tensor) -> SegmentationOutput:
            height, width = images.shape[2:]
            padded = nn.functional.pad(images, (0, -width % stride, 0, -height % stride))
            return SegmentationOutput(self.score(self.features(padded).relu()))

    torch.set_num_threads(1)
    segment = Segmenter(Small(), preprocessing=Preprocessing(), device=torch.device("cpu"), keep_scores=keep_scores)
    rng = np.random.default_rng(0)
    pixels = np.empty((side, side, 3), np.uint8)
    for top in range(0, side, 256):
        pixels[top : top + 256] = rng.integers(0, 256, pixels[top : top + 256].shape, dtype=np.uint8)
    segment([pixels[:64, :64]])
    return peak_growth(lambda: segment([pixels]))


if __name__ == "__main__":
    cli.run(main)
