"""A bucket of made-up images for benchmarks: its listings are computed, and nothing is stored.

The file system `fake://` serves them to fsspec in the benchmark's own process, and `s3_server` to S3 clients from a
process of its own.
"""

import multiprocessing
import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import fsspec

BUCKET = "photos"
START = datetime(2026, 1, 1, tzinfo=UTC)
PAGE = 1000


@dataclass(frozen=True)
class FakeBucket:
    """Keys `00042/0000007.jpg` in order.

    Args:
        keys: Number of keys.
        folders: Number of folders, which hold equally many keys.
    """

    keys: int
    folders: int

    @property
    def per_folder(self) -> int:
        """Number of keys of a folder; the last has fewer if need be."""
        return -(-self.keys // self.folders)

    def key(self, i: int) -> str:
        """Return the key at a position."""
        return f"{i // self.per_folder:05d}/{i % self.per_folder:07d}.jpg"

    def etag(self, i: int) -> str:
        """Return the entity tag of the key at a position: 32 digits that look random."""
        return f"{i * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"

    def folder(self, number: int) -> range:
        """Return the positions of the keys of a folder."""
        return range(number * self.per_folder, min(self.keys, (number + 1) * self.per_folder))

    def after(self, key: str) -> int:
        """Return the position of the first key after a given one."""
        return bisect_right(range(self.keys), key, key=self.key)


def size(i: int) -> int:
    """Return the bytes of the image at a position: around 100 kB."""
    return 60_000 + i * 7919 % 80_000


class FakeFileSystem(fsspec.AbstractFileSystem):
    """`fake://KEYS-FOLDERS/`: the listings of a `FakeBucket` as fsspec's dictionaries."""

    protocol = "fake"
    root_marker = ""

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List the bucket or one of its folders."""
        root, _, folder = self._strip_protocol(path).partition("/")
        bucket = FakeBucket(*map(int, root.split("-")))
        if not folder:
            return [{"name": f"{root}/{i:05d}", "type": "directory", "size": 0} for i in range(bucket.folders)]
        return [
            {
                "name": f"{root}/{bucket.key(i)}",
                "type": "file",
                "size": size(i),
                "ETag": f'"{bucket.etag(i)}"',
                "LastModified": START + timedelta(seconds=i),
            }
            for i in bucket.folder(int(folder))
        ]


@contextmanager
def s3_server(bucket: FakeBucket) -> Iterator[str]:
    """Serve a bucket's listings on a port of the loopback interface, and give the endpoint."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(bucket, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(bucket: FakeBucket, parent: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"bucket": bucket}))
    parent.send(server.server_port)
    server.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    """Answers ListObjectsV2."""

    bucket: FakeBucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        """List a page."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        prefix = query.get("prefix", "")
        after = query.get("continuation-token") or query.get("start-after") or ""
        if "delimiter" in query and not prefix:
            names = [f"{i:05d}/" for i in range(self.bucket.folders)]
            names = names[bisect_right(names, after) :]
            found = [f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in names[:PAGE]]
            more, last = len(names) > PAGE, names[:PAGE][-1:]
        else:
            number = re.match(r"(\d+)/", prefix)
            inside = self.bucket.folder(int(number[1])) if number else range(self.bucket.keys)
            page = range(max(inside.start, self.bucket.after(after)), inside.stop)
            found, more = [self._entry(i) for i in page[:PAGE]], len(page) > PAGE
            last = [self.bucket.key(page[:PAGE][-1])] if page else []
        token = f"<NextContinuationToken>{last[0]}</NextContinuationToken>" if more else ""
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{quote(prefix)}</Prefix><KeyCount>{len(found)}</KeyCount>{token}"
            f"<MaxKeys>{PAGE}</MaxKeys><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{''.join(found)}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _entry(self, i: int) -> str:
        time = (START + timedelta(seconds=i)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return (
            f"<Contents><Key>{self.bucket.key(i)}</Key><LastModified>{time}</LastModified>"
            f"<ETag>&quot;{self.bucket.etag(i)}&quot;</ETag><Size>{size(i)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )
