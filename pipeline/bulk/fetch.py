"""Fetching and decoding images in a helper process: each ends as pixels, or as a failure with its stage and message."""

import hashlib
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline import faults
from pipeline.bulk.archives.archive import is_archive
from pipeline.bulk.planned_image import Source, read_planned, read_table
from pipeline.data.images import DecodedImage, ImageError, decode_image
from pipeline.errors import ImageFault, UserError
from pipeline.faults import StoreFault

# A call returns the images that it has when it has decoded so many pixels, and leaves the others to another call.
ENOUGH_PIXELS = 4_000_000
# Far beyond the slowest decoder on a busy machine; an image that takes longer ends its process.
SECONDS_TO_DECODE = 300.0
FETCHES_OF_A_BROKEN_IMAGE = 3
_DECODING = threading.Lock()  # a process decodes one image at a time, so that its memory is that of one image


class NetworkInput(Protocol):
    """What a predictor gets of an image: its pixels, uint8 [height, width, 3], or a picklable value with more."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and so on of the pixels that the network sees; images of one shape form batches."""


Prepare = Callable[[NDArray[np.uint8]], NetworkInput]


@dataclass
class Failure:
    """Why an image has no result: the stage that failed, the class of the error, and its message."""

    stage: str
    error_class: str
    message: str

    @staticmethod
    def of(stage: str, error: BaseException) -> "Failure":
        """Return the failure that an error is."""
        message = str(error) if isinstance(error, ImageFault) else faults.explain(error)
        return Failure(stage, type(error).__name__, message[:500])

    @staticmethod
    def death(stage: str, cause: str) -> "Failure":
        """Return the failure of an image that ends the process that computes it."""
        return Failure(stage, "ProcessDied", f"processing this image ended the process ({cause})")

    @property
    def columns(self) -> dict[str, str]:
        """Columns of the image's row."""
        return {"error_stage": self.stage, "error_class": self.error_class, "error_message": self.message}


class StageError(Exception):
    """A stage of computing an image's row failed; the argument is the `Failure`."""


@dataclass
class Wanted:
    """An image to fetch.

    Attributes:
        image: Its row of the plan.
        data: Its encoded bytes where they are fetched already, or why they could not be.
    """

    image: dict[str, Any]
    data: bytes | Failure | None = None


@dataclass
class Fetched:
    """An image of a shard, or why it could not be fetched and decoded.

    Attributes:
        image_id: Id in the plan.
        truth: Ground truth in the form of the plan.
        failure: Why the image has no result; None so far.
        sha256: SHA-256 of the encoded bytes; None if they could not be fetched.
        width: Width of the stored pixels; None if they could not be decoded.
        height: Height of the stored pixels; None if they could not be decoded.
        pixels: uint8 [h, w, 3], upright; None where the row is computed without them.
        prepared: The network's input; None after the forward pass.
        orientation: EXIF orientation of the stored pixels.
        fetch_ms: Milliseconds that fetching took.
        decode_ms: Milliseconds that decoding took.
    """

    image_id: str
    truth: str | None = None
    failure: Failure | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    pixels: NDArray[np.uint8] | None = None
    prepared: NetworkInput | None = None
    orientation: int = 1
    fetch_ms: float | None = None
    decode_ms: float | None = None


@dataclass(frozen=True)
class Fetching:
    """How the images of a run are fetched and decoded.

    Attributes:
        source: Where they come from.
        prepare: Makes the network's input from an upright image.
        keep_pixels: Return the upright image as well.
        max_pixels: Larger images fail.
        give_up: Let an image that the store does not hand out fail, in place of the whole call.
    """

    source: Source
    prepare: Prepare
    keep_pixels: bool
    max_pixels: int
    give_up: bool = False


def fetch_images(wanted: list[Wanted], pool: ThreadPoolExecutor, how: Fetching) -> list[Fetched]:
    """Fetch images at the same time and decode them one after the other, in their order.

    Args:
        wanted: The images, one at least.
        pool: Threads to fetch on.
        how: What holds for all of them.

    Returns:
        The images, or the first of them once they have `ENOUGH_PIXELS`.

    Raises:
        StoreFault: The store does not hand out an image.
        UserError: `prepare` needs something that the user has to provide.
    """
    results: list[Fetched] = []
    pixels = 0
    pending = [pool.submit(_timed_read, one, how) for one in wanted]
    try:
        for one, future in zip(wanted, pending, strict=True):
            data, milliseconds = future.result()
            result = Fetched(one.image["image_id"], one.image["truth"])
            results.append(result)
            if isinstance(data, Failure):
                result.failure = data
                continue
            result.fetch_ms = milliseconds
            _decode(result, one, data, how)
            pixels += (result.width or 0) * (result.height or 0)
            if pixels > ENOUGH_PIXELS:
                break
    finally:
        for future in pending[len(results) :]:
            future.cancel()
    return results


def _decode(result: Fetched, wanted: Wanted, data: bytes, how: Fetching) -> None:
    """Decode an image. Only bytes that have arrived twice are its own fault: what is broken is fetched again."""
    for _ in range(FETCHES_OF_A_BROKEN_IMAGE):
        result.sha256 = hashlib.sha256(data).hexdigest()
        with _DECODING:
            decoding = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_DECODE)  # SIGALRM ends this process
            try:
                _set_pixels(result, decode_image(data, max_pixels=how.max_pixels), how)
                result.failure = None
            except UserError:  # a package is missing, for example
                raise
            except StageError as error:
                result.failure = error.args[0]
            except Exception as error:  # whatever a decoder raises belongs to this image
                result.failure = Failure.of("decode", error)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            result.decode_ms = 1000 * (time.perf_counter() - decoding)
        if result.failure is None or wanted.data is not None:
            return
        again = _read(wanted, how)
        if isinstance(again, Failure):
            result.failure = again
            return
        if again == data:
            return
        data = again


def read_tables(images: list[dict[str, Any]], *, give_up: bool = False) -> list[Wanted]:
    """Return the images of a shard to fetch; those that lie in Parquet tables are read here, each table once.

    Args:
        images: Rows of the plan.
        give_up: See `Fetching`.

    Raises:
        StoreFault: The store does not hand out a table.
    """
    in_tables = [image for image in images if image["row"] >= 0 and not is_archive(image["uri"])]
    rows: dict[str, list[int]] = {}
    for image in in_tables:
        rows.setdefault(image["uri"], []).append(image["row"])
    tables = {uri: _read_table(uri, some, give_up=give_up) for uri, some in rows.items()}
    return [
        Wanted(image, _of_table(tables[image["uri"]], image["row"]) if image["uri"] in tables else None)
        for image in images
    ]


def _read_table(uri: str, rows: list[int], *, give_up: bool) -> dict[int, bytes | ImageError] | Failure:
    try:
        return read_table(uri, rows)
    except Exception as error:  # a table that is gone or damaged
        if isinstance(error, StoreFault) and not give_up:
            raise
        return Failure.of("fetch", error)


def _of_table(table: dict[int, bytes | ImageError] | Failure, row: int) -> bytes | Failure:
    if isinstance(table, Failure):
        return table
    data = table[row]
    return Failure.of("fetch", data) if isinstance(data, ImageError) else data


def _timed_read(wanted: Wanted, how: Fetching) -> tuple[bytes | Failure, float]:
    """Return the encoded bytes of an image, and the milliseconds that it took."""
    start = time.perf_counter()
    data = _read(wanted, how) if wanted.data is None else wanted.data
    return data, 1000 * (time.perf_counter() - start)


def _read(wanted: Wanted, how: Fetching) -> bytes | Failure:
    try:
        return read_planned(wanted.image, how.source)
    except Exception as error:  # whatever it is belongs to this image, unless it is the store's
        if isinstance(error, StoreFault) and not how.give_up:
            raise
        return Failure.of("fetch", error)


def _set_pixels(result: Fetched, decoded: DecodedImage, how: Fetching) -> None:
    height, width = decoded.pixels.shape[:2]
    result.width, result.height = (width, height) if decoded.orientation < 5 else (height, width)
    result.orientation = decoded.orientation
    result.prepared = how.prepare(decoded.pixels)
    result.pixels = decoded.pixels if how.keep_pixels else None
