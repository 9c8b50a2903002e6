"""Truncated files, files with flipped bits, files that are no images, and files with the suffix of another format."""

import gzip
import io
import json
import random
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.support.hostile.case import LOSSY, Case, encode, noise, picture

# Suffix, format and options of each encoding.
ENCODINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": (".jpg", "JPEG", {"quality": 92}),
    "progressive": (".jpg", "JPEG", {"quality": 92, "progressive": True}),
    "png": (".png", "PNG", {}),
    "webp": (".webp", "WEBP", {"quality": 90}),
    "webp_lossless": (".webp", "WEBP", {"lossless": True}),
    "tiff": (".tif", "TIFF", {}),
    "tiff_lzw": (".tif", "TIFF", {"compression": "tiff_lzw"}),
    "gif": (".gif", "GIF", {}),
    "bmp": (".bmp", "BMP", {}),
    "avif": (".avif", "AVIF", {"quality": 90}),
    "jpeg2000": (".jp2", "JPEG2000", {}),
    "ppm": (".ppm", "PPM", {}),
}
LOSSLESS = {"png", "webp_lossless", "tiff", "tiff_lzw", "bmp", "ppm", "jpeg2000"}
CUTS = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 0.99)
FLIPS = 14
UNREADABLE = "truncated or damaged|damaged header|not an image|a TIFF of"


def truncated() -> Iterator[Case]:
    """Yield each encoding cut off at many offsets, and without its last byte."""
    for seed, (name, (suffix, kind, options)) in enumerate(ENCODINGS.items()):
        data = encode(noise(seed), kind, **options)
        for share in CUTS:
            end = int(share * len(data))
            refused = UNREADABLE if share <= 0.9 else ""  # what ends the file may be missing without harm
            yield Case(f"cut/{name}-{end:05d}{suffix}", data[:end], refused=refused)
        yield Case(f"cut/{name}-last{suffix}", data[:-1])


def flipped() -> Iterator[Case]:
    """Yield each encoding with one to eight flipped bits; some decoders notice, others return other pixels."""
    for seed, (name, (suffix, kind, options)) in enumerate(ENCODINGS.items()):
        data = encode(noise(100 + seed), kind, **options)
        rng = random.Random(seed)
        for i in range(FLIPS):
            damaged = bytearray(data)
            within = len(data) if i % 2 else min(len(data), 200)  # half of them in the header
            for _ in range(1 + i % 8):
                damaged[rng.randrange(within)] ^= 1 << rng.randrange(8)
            yield Case(f"flip/{name}-{i:02d}{suffix}", bytes(damaged))


def wrong_suffixes() -> Iterator[Case]:
    """Yield good images of each format with the suffixes of others: the content decides."""
    suffixes = sorted({suffix for suffix, _, _ in ENCODINGS.values()})
    for seed, (name, (suffix, kind, options)) in enumerate(ENCODINGS.items()):
        pixels = picture(200 + seed)
        data = encode(pixels, kind, **options)
        others = [other for other in suffixes if other != suffix]
        for other in (others[seed % len(others)], others[(seed + 3) % len(others)]):
            tolerance = 0.0 if name in LOSSLESS else LOSSY
            yield Case(f"suffix/{name}{other}", data, pixels=pixels, tolerance=tolerance)


def no_images() -> Iterator[Case]:
    """Yield files that are no images at all."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", b"x")
    contents = {
        "html.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "xml.jpg": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        "json.png": json.dumps({"message": "Forbidden"}).encode(),
        "text.png": b"see https://example.com/a.png\n",
        "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch /tmp/owned) (w) file\n",
        "pdf.tif": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "zip.jpg": buffer.getvalue(),
        "gzip.jpg": gzip.compress(b"x" * 999, mtime=0),
        "elf.png": b"\x7fELF" + bytes(range(256)),
        "pickle.png": b"\x80\x04\x95\x19\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        "mp4.avif": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(200),
        "random.jpg": np.random.default_rng(0).bytes(5000),
        "zeros.png": bytes(5000),
        "one_byte.jpg": b"\xff",
        "lines.jpg": b"\r\n" * 100,
        "signature_only.png": b"\x89PNG\r\n\x1a\n",
        "marker_only.jpg": b"\xff\xd8\xff\xe0",
        "riff_only.webp": b"RIFF\0\0\0\0WEBP",
        "tiff_only.tif": b"II*\0\x08\0\0\0",
        "gif_only.gif": b"GIF89a",
    }
    for name, data in contents.items():
        yield Case(f"none/{name}", data, refused=UNREADABLE)
    for name in ("empty.jpg", "empty.png", "empty.avif"):
        yield Case(f"none/{name}", b"", refused="the file is empty")
