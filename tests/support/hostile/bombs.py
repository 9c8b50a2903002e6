"""Decompression bombs: small files that declare many pixels, or inflate to many bytes."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.support.hostile.case import Case, encode, picture

MAX_PIXELS = 10_000_000  # with which the corpus is decoded
TOO_MANY = r"more than the allowed [\d,]+ pixels"
HUGE = 100 * 2**20  # bytes to which a chunk inflates
SIDE = 3000  # of the largest images that are to be decoded


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """Return a PNG of some size with given chunks."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def deflated_zeros(size: int) -> bytes:
    """Return so many zero bytes, deflated, without holding them."""
    deflate = zlib.compressobj(9)
    parts = [deflate.compress(bytes(2**20)) for _ in range(size // 2**20)]
    return b"".join([*parts, deflate.compress(bytes(size % 2**20)), deflate.flush()])


def declared() -> Iterator[Case]:
    """Yield files that declare more pixels than are allowed."""
    small = picture(800)
    empty = chunk(b"IDAT", zlib.compress(b""))
    for width, height in ((65_535, 65_535), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 2**31 - 1)):
        yield Case(f"bomb/{width}x{height}.png", png(width, height, empty), refused=TOO_MANY)
    for width, height in ((0, 0), (0, 5)):
        yield Case(f"bomb/{width}x{height}.png", png(width, height, empty), refused="damaged|not an image")
    jpeg = bytearray(encode(small, "JPEG"))
    place = jpeg.index(b"\xff\xc0")
    struct.pack_into(">HH", jpeg, place + 5, 65_500, 65_500)
    yield Case("bomb/declared.jpg", bytes(jpeg), refused=TOO_MANY)
    gif = bytearray(encode(small, "GIF"))
    struct.pack_into("<HH", gif, 6, 65_535, 65_535)
    yield Case("bomb/screen.gif", bytes(gif), refused=TOO_MANY)
    gif = bytearray(encode(small, "GIF"))
    struct.pack_into("<HH", gif, gif.index(b"\x2c\0\0\0\0") + 5, 65_535, 65_535)
    yield Case("bomb/frame.gif", bytes(gif), refused=f"{TOO_MANY}|damaged")
    for height in (2**30, -(2**30)):
        bmp = bytearray(encode(small, "BMP"))
        struct.pack_into("<ii", bmp, 18, 65_535, height)
        yield Case(f"bomb/declared{height}.bmp", bytes(bmp), refused=TOO_MANY)
    yield Case("bomb/declared.ppm", b"P6 65535 65535 255\n" + bytes(99), refused=TOO_MANY)
    yield Case("bomb/declared.pgm", b"P2 99999999999 99999999999 255\n1 2 3\n", refused=f"{TOO_MANY}|damaged")
    for tag in (b"\0\1\4\0", b"\1\1\4\0"):  # width, height as 32-bit numbers
        tiff = encode(small, "TIFF").replace(tag[:2] + b"\3\0", tag[:2] + b"\4\0")
        at = tiff.index(tag) + 8
        large = tiff[:at] + struct.pack("<I", 2**30) + tiff[at + 4 :]
        yield Case(f"bomb/declared_{tag[0]}.tif", large, refused=TOO_MANY)
    yield Case("bomb/large.webp", encode(Image.new("L", (16_383, 1000)), "WEBP", quality=1), refused=TOO_MANY)
    yield Case("bomb/large.jp2", encode(Image.new("L", (8000, 2000)), "JPEG2000"), refused=TOO_MANY)
    yield Case("bomb/large.avif", encode(Image.new("L", (8000, 2000)), "AVIF", quality=1), refused=TOO_MANY)
    yield Case("bomb/large.png", png(4000, 4000, chunk(b"IDAT", deflated_zeros(48_004_000))), refused=TOO_MANY)


def inflating() -> Iterator[Case]:
    """Yield files whose few kilobytes inflate to far more than their pixels."""
    pixels = picture(801)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    good = chunk(b"IDAT", zlib.compress(rows))
    zeros = deflated_zeros(HUGE)
    size = (pixels.shape[1], pixels.shape[0])
    # Pixels after the last row are not decoded, and unknown chunks not read.
    yield Case("bomb/long_data.png", png(*size, chunk(b"IDAT", deflated_zeros(HUGE))))
    yield Case("bomb/unknown_chunk.png", png(*size, chunk(b"teSt", zeros), good), pixels=pixels)
    for name, head in {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}.items():
        label = name.decode()
        refused = "its texts or colour profile inflate to too many bytes .*; save it without metadata"
        yield Case(f"bomb/{label}.png", png(*size, chunk(name, head + zeros), good), refused=refused)
        yield Case(f"bomb/{label}_behind.png", png(*size, good, chunk(name, head + zeros)), refused=refused)
        part = deflated_zeros(2**20 - 1)
        many = png(*size, *(chunk(name, str(i).encode() + head + part) for i in range(100)), good)
        if name == b"iCCP":  # the last profile counts
            yield Case(f"bomb/{label}_many.png", many, pixels=pixels)
        else:
            yield Case(f"bomb/{label}_many.png", many, refused=refused)
    yield Case("bomb/tEXt.png", png(*size, chunk(b"tEXt", b"k\0" + b"x" * 3_000_000), good), pixels=pixels)
    jpeg = encode(pixels, "JPEG", quality=92)
    comments = (b"\xff\xfe\xff\xff" + b"x" * 65_533) * 40
    yield Case("bomb/comments.jpg", jpeg[:2] + comments + jpeg[2:], pixels=pixels, tolerance=8.0)
    segments = (b"\xff\xe1\xff\xff" + b"Exif\0\0" + b"M" * 65_527) * 20
    yield Case("bomb/exif.jpg", jpeg[:2] + segments + jpeg[2:], pixels=pixels, tolerance=8.0)
    yield Case("bomb/behind.jpg", jpeg + bytes(3_000_000), pixels=pixels, tolerance=8.0)
    tiff = bytearray(encode(pixels, "TIFF"))
    (directory,) = struct.unpack_from("<I", tiff, 4)
    (entries,) = struct.unpack_from("<H", tiff, directory)
    for i in range(entries):
        count = bytearray(tiff)
        struct.pack_into("<I", count, directory + 2 + 12 * i + 4, 2**32 - 1)  # values of a tag
        yield Case(f"bomb/tag_{i}.tif", bytes(count))


def large() -> Iterator[Case]:
    """Yield large images within the limit, which decode within the stated memory, and their truncated forms."""
    side = SIDE
    black = np.zeros((side, side, 3), np.uint8)
    rows = deflated_zeros(side * (1 + 3 * side))
    deep = deflated_zeros(side * (1 + 6 * side))
    yield Case("large/rgb.png", png(side, side, chunk(b"IDAT", rows)), pixels=black)
    yield Case("large/deep.png", png(side, side, chunk(b"IDAT", deep), depth=16), pixels=black)
    yield Case("large/cut.png", png(side, side, chunk(b"IDAT", rows[:2000])), refused="truncated or damaged")
    yield Case("large/rgb.jpg", encode(black, "JPEG"), pixels=black)
    yield Case("large/lzw.tif", encode(black, "TIFF", compression="tiff_lzw"), pixels=black)
    yield Case("large/p.gif", encode(Image.new("P", (side, side)), "GIF"), pixels=black)
