"""Fetching and decoding a shard's images: each ends as pixels, or as an error with stage, class and message."""

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.bulk.archives.archive import is_archive
from pipeline.bulk.archives.member import MemberError
from pipeline.bulk.table_input import NO_ROW, read_encoded, read_table_images
from pipeline.data.images import DecodedImage, ImageError, decode_image
from pipeline.errors import ImageFault, UserError

# If none of at least so many images in a shard can be fetched, the store fails, not the images.
TOO_MANY_TO_BE_CHANCE = 4
# Classes of errors that are not the store's.
OWN_FAULTS = {error.__name__ for error in (FileNotFoundError, ImageError, MemberError)}

Prepare = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass
class Failure:
    """Why an image has no result: the stage that failed, the class of the error, and its message."""

    stage: str
    error_class: str
    message: str

    @staticmethod
    def of(stage: str, error: BaseException) -> "Failure":
        """Return the failure that an error is."""
        message = str(error) if isinstance(error, ImageFault) else storage.explain(error)
        return Failure(stage, type(error).__name__, message[:500])

    @property
    def columns(self) -> dict[str, str]:
        """Columns of the image's row."""
        return {"error_stage": self.stage, "error_class": self.error_class, "error_message": self.message}


@dataclass
class Fetched:
    """An image of a shard, or why it could not be fetched and decoded.

    Attributes:
        truth: Ground truth in the form of the plan.
        failure: Why the image has no result; None so far.
        sha256: SHA-256 of the encoded bytes; None if they could not be fetched.
        width: Width of the stored pixels; None if they could not be decoded.
        height: Height of the stored pixels; None if they could not be decoded.
        pixels: uint8 [h, w, 3], upright.
        prepared: The network's input.
        orientation: EXIF orientation of the stored pixels.
        fetch_ms: Milliseconds that fetching took.
        decode_ms: Milliseconds that decoding took.
    """

    truth: str | None = None
    failure: Failure | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    pixels: NDArray[np.uint8] | None = None
    prepared: NDArray[np.uint8] | None = None
    orientation: int = 1
    fetch_ms: float | None = None
    decode_ms: float | None = None


def fetch_shard(
    images: list[dict[str, Any]], pool: ThreadPoolExecutor, *, max_pixels: int, prepare: Prepare
) -> list[Fetched]:
    """Fetch and decode the images of a shard, in its order.

    Args:
        images: Rows of the plan.
        pool: Threads to fetch and decode on.
        max_pixels: Larger images fail.
        prepare: Makes the network's input from an upright image.

    Raises:
        UserError: No image of the shard could be fetched, for a reason that lies with the store.
    """
    tables = {image["uri"] for image in images if image["row"] != NO_ROW and not is_archive(image["uri"])}
    rows = {uri: _read_table(uri, images) for uri in sorted(tables)}
    results = list(pool.map(lambda image: _fetch(image, rows.get(image["uri"]), max_pixels, prepare), images))
    failures = [r.failure for r in results if r.failure and r.failure.stage == "fetch"]
    lost = [f for f in failures if f.error_class not in OWN_FAULTS]
    if len(lost) == len(images) >= TOO_MANY_TO_BE_CHANCE:
        raise UserError(
            f"none of the {len(images)} images of a shard can be fetched: {storage.redact(images[0]['uri'])}: "
            f"{lost[0].message}. When the store answers again, the same command resumes the run"
        )
    return results


def _read_table(uri: str, images: list[dict[str, Any]]) -> dict[int, bytes | ImageError] | Failure:
    try:
        return read_table_images(uri, [image["row"] for image in images if image["uri"] == uri])
    except Exception as error:  # whatever the store or the Parquet file raises belongs to these rows
        return Failure.of("fetch", error)


def _fetch(
    image: dict[str, Any], table: dict[int, bytes | ImageError] | Failure | None, max_pixels: int, prepare: Prepare
) -> Fetched:
    start = time.perf_counter()
    try:
        if isinstance(table, Failure):
            return Fetched(failure=table)
        data = read_encoded(image["uri"], image["row"], image["bytes"]) if table is None else table[image["row"]]
        if isinstance(data, ImageError):
            raise data
    except Exception as error:  # whatever a store raises belongs to this image
        return Fetched(failure=Failure.of("fetch", error))
    fetched = time.perf_counter()
    result = Fetched(truth=image["truth"], sha256=hashlib.sha256(data).hexdigest(), fetch_ms=1000 * (fetched - start))
    try:
        _set_pixels(result, decode_image(data, max_pixels=max_pixels))
        result.prepared = prepare(result.pixels)  # type: ignore[arg-type]
    except Exception as error:
        result.failure = Failure.of("decode", error)
    result.decode_ms = 1000 * (time.perf_counter() - fetched)
    return result


def _set_pixels(result: Fetched, decoded: DecodedImage) -> None:
    result.pixels, result.orientation = decoded
    height, width = decoded.pixels.shape[:2]
    result.width, result.height = (width, height) if decoded.orientation < 5 else (height, width)
