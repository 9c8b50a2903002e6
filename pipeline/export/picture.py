"""An image of a run as a format writes it, and a file name for it that never leaves the output."""

import hashlib
import posixpath
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import faults, storage
from pipeline.bulk.table_input import read_image_bytes
from pipeline.data.image_ids import safe_path
from pipeline.data.images import decode_mask
from pipeline.errors import ImageFault

MOST_BYTES = 200  # of a name between two slashes; file systems take 255, and formats add endings
# Control characters end lines of lists and are no XML, and a backslash is a slash on Windows.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\\\\\ufffe\uffff]")


class UnreadableImage(Exception):
    """An image that was to be copied cannot be read; the message is one line."""


class Picture(NamedTuple):
    """An image of a run.

    Attributes:
        number: Position among the exported images, from 1.
        image_id: Id of the image in the run.
        uri: Where the image is.
        stem: Path of its files below a folder of the export, without suffix; no two images have the same.
        suffix: Suffix of the image file, with the dot.
        width: Width of the stored pixels.
        height: Height of the stored pixels.
        png: Mask as the run stores it; None in a detection run.
        boxes: Detections: class, score, xmin, ymin, xmax, ymax, in pixels of the stored image; the last two are
            exclusive.
    """

    number: int
    image_id: str
    uri: str
    stem: str
    suffix: str
    width: int
    height: int
    png: bytes | None
    boxes: list[dict[str, Any]]

    @property
    def labels(self) -> NDArray[np.int32]:
        """Class indices, int32 [height, width]."""
        assert self.png is not None
        return decode_mask(self.png)

    @property
    def file(self) -> str:
        """Path of the image file below a folder of the export."""
        return self.stem + self.suffix

    def image(self) -> bytes:
        """Read the encoded image.

        Raises:
            UnreadableImage: It is not there any more, or cannot be read.
        """
        try:
            return read_image_bytes(self.uri)
        except (OSError, ImageFault) as error:
            raise UnreadableImage(f"{storage.redact(self.uri)}: {faults.explain(error)}") from None


def clean(text: str) -> str:
    """Replace the characters that lists, XML or Windows cannot take."""
    return _UNSAFE.sub("_", text)


def stem_of(image_id: str, *, shared: bool = False) -> str:
    """Return a path without suffix for the files of an image.

    Args:
        image_id: Id of the image.
        shared: Whether ids of other images differ in the suffix only. Then, and where characters had to be replaced or
            the name is too long, a hash of the id is added.
    """
    stem = posixpath.splitext(safe_path(image_id))[0]
    safe = "/".join(_short(clean(part)) for part in stem.split("/"))
    if safe == stem and stem and not shared:
        return stem
    return f"{safe}-{hashlib.sha256(image_id.encode()).hexdigest()[:12]}"


def _short(name: str) -> str:
    return name.encode()[:MOST_BYTES].decode("utf-8", "ignore")


def suffix_of(image_id: str) -> str:
    """Return the suffix of an image file, with the dot."""
    return clean(posixpath.splitext(safe_path(image_id))[1])[:16]


def hashed(stems: Iterable[str]) -> NDArray[np.uint64]:
    """Return 64-bit hashes of stems: those of a million images take 8 MB."""
    digests = (hashlib.blake2b(stem.encode(), digest_size=8).digest() for stem in stems)
    return np.frombuffer(b"".join(digests), np.uint64)
