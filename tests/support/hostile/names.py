"""Names that break programs: each with a good image of its own."""

import os
from collections.abc import Iterator

from tests.support.hostile.case import Case, encode, picture

NAMES = [
    "with space.png",
    " leading space.png",
    "trailing space .png",
    "quote's.png",
    'double"quotes".png',
    "`touch owned`.png",
    "$(touch owned).png",
    "$HOME.png",
    "semi;colon.png",
    "pipe|.png",
    "hash#tag.png",
    "why?.png",
    "why?key=1&sig=2.png",
    "100%.png",
    "%2e%2e%2fescaped.png",
    "%00.png",
    "%s%n%d{0}{}.png",
    "plus+and&=.png",
    "a..b.png",
    "a...png",
    "d.../e..png",
    "-rf.png",
    "--help.png",
    "caf\u00e9.png",
    "cafe\u0301.png",
    "日本/🛰.png",
    "\u202egnp.png",
    "zero\u200bwidth.png",
    "line\nfeed.png",
    "carriage\rreturn.png",
    "tab\t.png",
    "escape\x1b[31m.png",
    "bell\x07.png",
    "back\\slash.png",
    "w..\\..\\windows.png",
    "C:\\x.png",
    "star*.png",
    "brackets[1].png",
    "braces{0..9}.png",
    "tilde~.png",
    "~root.png",
    "colon:.png",
    "s3:colon.png",
    "at@sign.png",
    "user:word@host.png",
    "#row=3.png",
    "x.parquet#row=3.png",
    "x.tar#offset=0&size=9.png",
    "x#id=0123456789abcdef.png",
    "x.tar/inside.png",
    "<script>alert(1).png",
    "<img src=x onerror=alert(1)>.png",
    "'; DROP TABLE images; --.png",
    "1 OR 1=1.png",
    "NULL.png",
    "nan.png",
    "CON.png",
    "a,b;c.png",
    "same.png",
    "same.jpg",
    "same.webp",
    "same.PNG",
    "SAME.png",
    "same.png.png",
    "same.tar.png",
    "_underscore/_x.png",
    "part-00000.parquet.png",
    "deep/" * 40 + "x.png",
]
LOCAL_NAMES = ["x" * 251 + ".png", "\u65e5" * 83 + "ab.png"]  # of 255 bytes
# Keys that no file system holds, but S3 does.
S3_NAMES = [
    "<script>alert(1)</script>.png",
    "k" * (1024 - len("in/name/.png")) + ".png",  # a key of 1,024 bytes below `in/`, which is the longest
    "a//double.png",
    "/leading.png",
    "a/./dot.png",
    "up/../../two.png",
    "../above.png",
]
NOT_UTF_8 = [b"latin-\xe9.png", b"bad-\xff\xfe.jpg", b"caf\xe9/x.png", b"over-\xc0\xaf.png", b"half-\xe6\x97.png"]


def names(*more: str) -> Iterator[Case]:
    """Yield a good image for each name."""
    for seed, name in enumerate([*NAMES, *more]):
        pixels = picture(1000 + seed)
        yield Case(f"name/{name}", encode(pixels, "PNG"), pixels=pixels)


def not_utf_8() -> Iterator[Case]:
    """Yield files whose names are not UTF-8, as Python writes such names."""
    for seed, name in enumerate(NOT_UTF_8):
        data = encode(picture(1500 + seed), "PNG")
        yield Case(f"name/{os.fsdecode(name)}", data, refused="the name of the file is not UTF-8.*rename it")
