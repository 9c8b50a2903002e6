"""Fetching and decoding a shard's images: every one ends as pixels or as an error with stage, class and message."""

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.bulk.listing import NO_ROW, read_rows
from pipeline.data.images import DecodedImage, ImageError, decode_image
from pipeline.errors import UserError
from pipeline.predict.segmenter import NotFiniteError

# A shard of at least this many images of which none can be fetched is a store that fails, not bad images.
TOO_MANY_TO_BE_CHANCE = 4

Prepare = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass
class Failure:
    """Why an image has no result."""

    stage: str
    error_class: str
    message: str

    @staticmethod
    def of(stage: str, error: BaseException) -> "Failure":
        ours = isinstance(error, (ImageError, NotFiniteError))  # their messages are whole sentences
        return Failure(stage, type(error).__name__, (str(error) if ours else storage.explain(error))[:500])


@dataclass
class Fetched:
    """An image of a shard, or why it could not be had.

    Attributes:
        truth: the plan's.
        sha256: of the encoded bytes; None where they could not be fetched.
        width, height: of the stored pixels; None where they could not be decoded.
        pixels: uint8 [h, w, 3], upright.
        prepared: the pixels that the network is shown.
        orientation: EXIF orientation of the stored pixels.
        fetch_ms, decode_ms: milliseconds.
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
        images: rows of the plan.
        pool: threads to fetch and decode on.
        max_pixels: larger images fail.
        prepare: what the network is shown of an image.

    Raises:
        UserError: not one image could be fetched, for a reason that lies with the store.
    """
    tables = {image["uri"] for image in images if image["row"] != NO_ROW}
    rows = {uri: _read_table(uri, images) for uri in sorted(tables)}
    results = list(pool.map(lambda image: _fetch(image, rows.get(image["uri"]), max_pixels, prepare), images))
    failures = [r.failure for r in results if r.failure and r.failure.stage == "fetch"]
    lost = [f for f in failures if f.error_class != "FileNotFoundError"]
    if len(lost) == len(images) >= TOO_MANY_TO_BE_CHANCE:
        raise UserError(
            f"none of the {len(images)} images of a shard can be fetched: {storage.redact(images[0]['uri'])}: "
            f"{lost[0].message}. When the store answers again, the same command goes on"
        )
    return results


def _read_table(uri: str, images: list[dict[str, Any]]) -> dict[int, bytes | None] | Failure:
    try:
        return read_rows(uri, [image["row"] for image in images if image["uri"] == uri])
    except Exception as error:  # whatever the store or the Parquet file raises belongs to these rows
        return Failure.of("fetch", error)


def _fetch(
    image: dict[str, Any], table: dict[int, bytes | None] | Failure | None, max_pixels: int, prepare: Prepare
) -> Fetched:
    start = time.perf_counter()
    try:
        if isinstance(table, Failure):
            return Fetched(failure=table)
        data = storage.read_bytes(image["uri"]) if table is None else table[image["row"]]
        if data is None:
            raise ImageError("the row holds no bytes")
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
