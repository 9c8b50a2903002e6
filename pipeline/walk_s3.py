"""Listing an S3 bucket by pages, and a large one in many places at a time.

S3 lists keys in order, a thousand on a page, and each page waits for the one before. A long listing is therefore cut
into ranges of keys, which are listed side by side. The ranges begin at folders, but any cuts give the same listing.
"""

import itertools
import re
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from pipeline import retry
from pipeline.storage import Page, StoredFile, stored_file
from pipeline.threads import in_order, interleave

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

ENOUGH_FOLDERS = 64  # to cut at: then folders in them are not looked for
MOST_RANGES = 128  # each reads up to a page too much
FOLDER_PAGES = 10  # pages of a folder that are searched for folders in it


def below(fs: "AbstractFileSystem", path: str, stem: str) -> Iterator[Page]:
    """Yield pages of all files below a folder whose path continues with a stem; the file itself if it is one."""
    bucket, _, key = path.partition("/")
    prefix = _prefix(key) + stem
    request = {"Bucket": bucket, "Prefix": prefix}
    first = next(_responses(fs, request))
    page = _page(bucket, first)
    if key and not stem and not page.files:
        page = _file(fs, path)
    yield page
    if first["IsTruncated"]:
        last = first["Contents"][-1]["Key"]
        cuts = [cut for cut in _cuts(fs, bucket, prefix) if cut > last]
        ranges = itertools.pairwise([last, *cuts, None])
        yield from interleave(_range(fs, request, after, until) for after, until in ranges)


def folder(fs: "AbstractFileSystem", path: str, stem: str) -> Iterator[Page]:
    """Yield pages of the files and folders in a folder whose names begin with a stem."""
    bucket, _, key = path.partition("/")
    for response in _responses(fs, {"Bucket": bucket, "Prefix": _prefix(key) + stem, "Delimiter": "/"}):
        yield _page(bucket, response)


def _prefix(key: str) -> str:
    return f"{key}/" if key else ""


def _range(fs: "AbstractFileSystem", request: dict[str, Any], after: str, until: str | None) -> Iterator[Page]:
    """Yield pages of the files with after < key <= until."""
    for response in _responses(fs, request | {"StartAfter": after}):
        contents = response.get("Contents", [])
        # Servers that do not know StartAfter begin with the first key.
        inside = [c for c in contents if after < c["Key"] and (until is None or c["Key"] <= until)]
        yield _page(request["Bucket"], {"Contents": inside})
        if until is not None and contents and contents[-1]["Key"] > until:
            return


def _cuts(fs: "AbstractFileSystem", bucket: str, prefix: str) -> list[str]:
    """Return folders below a prefix in order, some hundred if there are so many."""
    found: list[str] = []
    level = [prefix]
    while level and len(found) < ENOUGH_FOLDERS:
        level = list(itertools.chain.from_iterable(in_order(partial(_folders, fs, bucket), level)))
        found += level
    return sorted(found)[:: 1 + len(found) // MOST_RANGES]


def _folders(fs: "AbstractFileSystem", bucket: str, prefix: str) -> list[str]:
    responses = _responses(fs, {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"})
    pages = itertools.islice(responses, FOLDER_PAGES)
    return [entry["Prefix"] for response in pages for entry in response.get("CommonPrefixes", [])]


def _responses(fs: "AbstractFileSystem", request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the store's answers to a request for a listing, page after page."""
    event = "before-parse.s3.ListObjectsV2"
    fs.connect().meta.events.register_first(event, _parse_entries_fast, unique_id="segpipe-listing")
    token: dict[str, str] = {}
    while True:
        page = partial(fs.call_s3, "list_objects_v2", **request, **fs.req_kw, **token)
        response = retry.patiently(page, f"s3://{request['Bucket']}")
        yield response
        if not response.get("IsTruncated"):
            return
        token = {"ContinuationToken": response["NextContinuationToken"]}


def _page(bucket: str, response: dict[str, Any]) -> Page:
    return Page(
        [
            StoredFile(f"{bucket}/{c['Key']}", c["Size"], c.get("ETag", "").strip('"'), str(c["LastModified"]))
            for c in response.get("Contents", [])
            if not c["Key"].endswith("/")  # some tools mark a folder by an empty object
        ],
        [f"{bucket}/{entry['Prefix'].removesuffix('/')}" for entry in response.get("CommonPrefixes", [])],
    )


def _file(fs: "AbstractFileSystem", path: str) -> Page:
    try:
        info = fs.info(path)
    except FileNotFoundError:
        return Page([], [])
    return Page([stored_file(info)] if info["type"] == "file" else [], [])


def _parse_entries_fast(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Read the entries of a listing and leave the rest to botocore, whose general parser takes ten times as long.

    It handles botocore's event `before-parse`.
    """
    body = response_dict["body"]
    if response_dict["status_code"] != 200 or b"<Contents>" not in body:
        return
    entries = []
    for element in ElementTree.fromstring(body).iterfind("{*}Contents"):
        entry = {child.tag.rpartition("}")[2]: child.text or "" for child in element}
        time = datetime.fromisoformat(entry["LastModified"])
        entries.append(entry | {"Size": int(entry["Size"]), "LastModified": time})
    customized_response_dict["Contents"] = entries
    response_dict["body"] = re.sub(rb"<Contents>.*?</Contents>", b"", body, flags=re.DOTALL)
