"""One GET of an S3 object, with what the store says about it: s3fs returns the bytes alone."""

import asyncio
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from fsspec.asyn import sync

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

# A transfer may take so long, and a second more for so many bytes: then the store trickles, and another attempt is due.
SECONDS, BYTES_PER_SECOND = 60.0, 20_000
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/")


class Sent(NamedTuple):
    """What a store has sent.

    Attributes:
        data: The bytes.
        etag: Entity tag of the whole object; empty if the store has sent none.
    """

    data: bytes
    etag: str


def get(fs: "AbstractFileSystem", path: str, start: int | None, end: int | None) -> Sent:
    """Read an object, or its bytes from `start` to before `end`, in one request that is not repeated.

    Raises:
        OSError: The store refuses or fails, sends fewer bytes than it has announced, or trickles.
    """
    return sync(fs.loop, _get, fs, path, start, end)


async def _get(fs: Any, path: str, start: int | None, end: int | None) -> Sent:
    bucket, key, version = fs.split_path(path)
    request = {"Bucket": bucket, "Key": key, **fs.req_kw}
    if version:
        request["VersionId"] = version
    if start is not None and end is not None:
        request["Range"] = f"bytes={start}-{end - 1}"
    try:
        await fs.set_session()
        client = await fs.get_s3(bucket)
        response = await client.get_object(**request)
    except Exception as error:
        from s3fs.errors import translate_boto_error  # here, because local runs import this module and no S3 client

        raise translate_boto_error(error) from error
    announced = _announced(response)
    try:
        seconds = SECONDS + announced / BYTES_PER_SECOND
        async with asyncio.timeout(seconds), response["Body"] as body:
            data = await body.read()
    except TimeoutError:
        raise TimeoutError(f"{announced:,} bytes did not arrive within {seconds:.0f} s") from None
    if len(data) != announced:
        raise OSError(f"the store sent {len(data):,} of {announced:,} bytes")
    return Sent(data, response.get("ETag", "").strip('"'))


def _announced(response: dict[str, Any]) -> int:
    """Return the number of bytes that the store means to send."""
    inside = _CONTENT_RANGE.match(response.get("ContentRange", ""))
    return int(inside[2]) - int(inside[1]) + 1 if inside else response["ContentLength"]
