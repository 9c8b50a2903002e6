"""Good and odd images: colour modes and bit depths, orientations, colour profiles, animations and pages."""

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pipeline.data.images import to_upright
from tests.support.hostile.case import LOSSY, Case, encode, picture

ORIENTATION = 0x0112


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image [h, w, 3] in grey, in three equal channels."""
    return np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, axis=-1)


def modes() -> Iterator[Case]:
    """Yield every colour mode and bit depth that the formats have."""
    rgb = picture(300)
    image = Image.fromarray(rgb)
    grey8 = grey(rgb)
    black = np.repeat(np.where(grey8[..., :1] > 127, 255, 0).astype(np.uint8), 3, axis=-1)
    palette = np.asarray(image.quantize(64).convert("RGB"))
    two = Image.fromarray(black[..., 0]).convert("1")
    alpha = image.convert("RGBA")
    alpha.putalpha(0)
    high = Image.fromarray(grey8[..., 0].astype(np.uint16) * 257)
    exact: dict[str, tuple[Image.Image, str, dict[str, Any], NDArray[np.uint8]]] = {
        "1.png": (two, "PNG", {}, black),
        "l.png": (image.convert("L"), "PNG", {}, grey8),
        "la.png": (image.convert("LA"), "PNG", {}, grey8),
        "p.png": (image.quantize(64), "PNG", {}, palette),
        "rgb.png": (image, "PNG", {}, rgb),
        "rgba.png": (alpha, "PNG", {}, rgb),
        "i16.png": (high, "PNG", {}, grey8),
        "trns.png": (image, "PNG", {"transparency": (0, 0, 0)}, rgb),
        "1.tif": (two, "TIFF", {}, black),
        "1_g4.tif": (two, "TIFF", {"compression": "group4"}, black),
        "l.tif": (image.convert("L"), "TIFF", {}, grey8),
        "p.tif": (image.quantize(64), "TIFF", {}, palette),
        "rgb.tif": (image, "TIFF", {}, rgb),
        "rgba.tif": (alpha, "TIFF", {}, rgb),
        "deflate.tif": (image, "TIFF", {"compression": "tiff_adobe_deflate"}, rgb),
        "packbits.tif": (image, "TIFF", {"compression": "packbits"}, rgb),
        "i16.tif": (high, "TIFF", {}, grey8),
        "big.tif": (image, "TIFF", {"big_tiff": True}, rgb),
        "1.bmp": (two, "BMP", {}, black),
        "l.bmp": (image.convert("L"), "BMP", {}, grey8),
        "p.bmp": (image.quantize(64), "BMP", {}, palette),
        "rgb.bmp": (image, "BMP", {}, rgb),
        "rgba.bmp": (alpha, "BMP", {}, rgb),
        "l.gif": (image.convert("L"), "GIF", {}, grey8),
        "p.gif": (image.quantize(64), "GIF", {}, palette),
        "interlaced.gif": (image.quantize(64), "GIF", {"interlace": 1}, palette),
        "rgba.webp": (alpha, "WEBP", {"lossless": True, "exact": True}, rgb),
        "1.pbm": (two, "PPM", {}, black),
        "l.pgm": (image.convert("L"), "PPM", {}, grey8),
        "i16.pgm": (high, "PPM", {}, grey8),
        "rgb.ppm": (image, "PPM", {}, rgb),
        "l.jp2": (image.convert("L"), "JPEG2000", {}, grey8),
        "rgba.jp2": (alpha, "JPEG2000", {}, rgb),
        "one_pixel.png": (image.crop((0, 0, 1, 1)), "PNG", {}, rgb[:1, :1]),
        "one_row.png": (image.crop((0, 0, 32, 1)), "PNG", {}, rgb[:1]),
    }
    for name, (source, kind, options, pixels) in exact.items():
        yield Case(f"mode/{name}", encode(source, kind, **options), pixels=pixels)
    lossy: dict[str, tuple[Image.Image, str, dict[str, Any], NDArray[np.uint8]]] = {
        "l.jpg": (image.convert("L"), "JPEG", {"quality": 92}, grey8),
        "cmyk.jpg": (image.convert("CMYK"), "JPEG", {"quality": 92}, rgb),
        "no_subsampling.jpg": (image, "JPEG", {"quality": 92, "subsampling": 0}, rgb),
        "restart.jpg": (image, "JPEG", {"quality": 92, "restart_marker_blocks": 1}, rgb),
        "cmyk.tif": (image.convert("CMYK"), "TIFF", {}, rgb),
        "jpeg.tif": (image, "TIFF", {"compression": "jpeg", "quality": 92}, rgb),
        "ycbcr.tif": (image.convert("YCbCr"), "TIFF", {}, rgb),
        "rgba.avif": (alpha, "AVIF", {"quality": 92}, rgb),
        "l.avif": (image.convert("L"), "AVIF", {"quality": 92}, grey8),
        "rgb.webp": (image, "WEBP", {"quality": 92}, rgb),
    }
    for name, (source, kind, options, pixels) in lossy.items():
        yield Case(f"mode/{name}", encode(source, kind, **options), pixels=pixels, tolerance=LOSSY)
    refused = {
        "f.tif": (Image.fromarray(grey8[..., 0].astype(np.float32)), "floating-point.*save it with 8 or 16 bits"),
        "i.tif": (Image.fromarray(grey8[..., 0].astype(np.int32) << 20), "32-bit pixels.*save it with 8 or 16"),
    }
    for name, (source, message) in refused.items():
        yield Case(f"mode/{name}", encode(source, "TIFF"), refused=message)
    ascii_pixels = " ".join(map(str, rgb.ravel()))
    yield Case("mode/ascii.ppm", f"P3 32 24 255\n{ascii_pixels}\n".encode(), pixels=rgb)


def orientations() -> Iterator[Case]:
    """Yield every EXIF orientation, and some that do not exist, in every format that has them."""
    formats: dict[str, tuple[str, dict[str, Any]]] = {
        ".jpg": ("JPEG", {"quality": 92}),
        ".png": ("PNG", {}),
        ".webp": ("WEBP", {"lossless": True}),
        ".tif": ("TIFF", {}),
        ".avif": ("AVIF", {"quality": 92}),
    }
    for suffix, (kind, options) in formats.items():
        for orientation in (*range(1, 9), 0, 9, 65535):
            stored = picture(400 + orientation % 100)
            tags = Image.Exif()
            tags[ORIENTATION] = orientation
            pixels = to_upright(stored, orientation if 1 <= orientation <= 8 else 1)
            tolerance = LOSSY if suffix in (".jpg", ".avif") else 0.0
            name = f"orientation/{orientation}{suffix}"
            yield Case(name, encode(stored, kind, exif=tags, **options), pixels=pixels, tolerance=tolerance)


def profiles() -> Iterator[Case]:
    """Yield colour profiles, good and broken; the pixels are those of the file in any case."""
    good = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    blobs = {
        "srgb": good,
        "lab": lab,
        "cut": good[: len(good) // 2],
        "garbage": np.random.default_rng(0).bytes(3000),
        "wrong_size": struct.pack(">I", 2**31 - 1) + good[4:],
        "text": b"not a profile",
        "large": good + bytes(300_000),
    }
    formats = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF"}
    for seed, (name, blob) in enumerate(blobs.items()):
        pixels = picture(500 + seed)
        for suffix, kind in formats.items():
            options = {"quality": 92} if suffix == ".jpg" else {"lossless": True} if suffix == ".webp" else {}
            tolerance = LOSSY if suffix == ".jpg" else 0.0
            data = encode(pixels, kind, icc_profile=blob, **options)
            yield Case(f"profile/{name}{suffix}", data, pixels=pixels, tolerance=tolerance)


def frames() -> Iterator[Case]:
    """Yield animations and files of several pages, of which the first frame counts."""
    first, *others = (Image.fromarray(picture(600 + i)) for i in range(4))
    pixels = np.asarray(first)
    options: dict[str, tuple[str, dict[str, Any], float]] = {
        "animated.gif": ("GIF", {"duration": 50, "loop": 0}, LOSSY),
        "animated.png": ("PNG", {"duration": 50}, 0.0),
        "default_image.png": ("PNG", {"default_image": True}, 0.0),
        "animated.webp": ("WEBP", {"lossless": True, "duration": 50}, 0.0),
        "animated.avif": ("AVIF", {"quality": 92, "duration": 50}, LOSSY),
        "pages.tif": ("TIFF", {}, 0.0),
        "pages_lzw.tif": ("TIFF", {"compression": "tiff_lzw"}, 0.0),
    }
    for name, (kind, more, tolerance) in options.items():
        data = encode(first, kind, save_all=True, append_images=others, **more)
        yield Case(f"frames/{name}", data, pixels=pixels, tolerance=tolerance)
        yield Case(f"frames/cut_{name}", data[: int(0.95 * len(data))])
    loop = bytearray(encode(first, "TIFF"))
    (directory,) = struct.unpack_from("<I", loop, 4)
    (entries,) = struct.unpack_from("<H", loop, directory)
    struct.pack_into("<I", loop, directory + 2 + 12 * entries, directory)  # the next page is this one
    yield Case("frames/endless.tif", bytes(loop), pixels=pixels)
    many = io.BytesIO()
    first.save(many, "GIF", save_all=True, append_images=[Image.fromarray(picture(700 + i % 50)) for i in range(300)])
    yield Case("frames/many.gif", many.getvalue(), pixels=pixels, tolerance=LOSSY)
