"""`pipeline.walk`: long listings and globs of a local folder, memory, and S3."""

import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from s3fs import S3FileSystem

from benchmarks.fake_bucket import BUCKET, FakeBucket, s3_server
from pipeline import storage, walk_s3
from pipeline.errors import UserError
from pipeline.walk import glob_root, iter_files


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty folder on each kind of store."""
    roots = {"local": str(tmp_path), "memory": "memory://"}
    root = request.getfixturevalue("s3") if request.param == "s3" else roots[request.param]
    return storage.join(root, uuid4().hex)


def put(folder: str, *names: str) -> None:
    for name in names:
        storage.write_bytes(storage.join(folder, name), name.encode())


def below(folder: str, url: str) -> list[str]:
    """The listed paths, sorted and relative to the folder."""
    root = storage.filesystem(folder)[1]
    return sorted(file.path.removeprefix(root + "/") for file in iter_files(url))


def test_a_walk_finds_what_a_short_listing_does(folder):
    put(folder, "b.png", "a/2.png", "a/10.png", "a-b.png", "Z.png", "a/deep/er/x.png", ".x/y.png", "ü/日本 🛰.png")
    assert sorted(iter_files(folder)) == storage.list_files(folder)
    assert len(list(iter_files(folder))) == 8
    assert list(iter_files(storage.join(folder, "missing"))) == []


def test_a_walk_from_a_file_finds_that_file(folder):
    put(folder, "x[1].png", "x[1].png.txt", "x1.png")
    url = storage.join(folder, "x[1].png")
    assert list(iter_files(url)) == storage.list_files(url) != []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["1.png", "a b#.png"]),
        ("**/*.png", ["1.png", "a b#.png", "sub/2.png", "sub/deep/3.png"]),
        ("s*/**", ["s.png/d.txt", "sub/2.png", "sub/deep/3.png"]),
        ("sub/?.png", ["sub/2.png"]),
        ("[0-9].*", ["1.jpg", "1.png"]),
        ("s*/d*/?.png", ["sub/deep/3.png"]),
        ("*/deep/3.*", ["sub/deep/3.png"]),
        ("*/2.png", ["sub/2.png"]),
        ("none*", []),
        ("none/*.png", []),
    ],
)
def test_a_glob_finds_the_matching_files(folder, pattern, expected):
    put(folder, "1.png", "1.jpg", "a b#.png", "sub/2.png", "sub/deep/3.png", "folder.png/x.txt", "s.png/d.txt")
    assert below(folder, storage.join(folder, pattern)) == expected
    fs, path = storage.filesystem(storage.join(folder, pattern))
    assert expected == [f.removeprefix(storage.filesystem(folder)[1] + "/") for f in fs.glob(path) if fs.isfile(f)]


@pytest.mark.parametrize(
    ("path", "root"), [("a/b/2026-*/x.jpg", "a/b"), ("a/b", "a/b"), ("a/?/c", "a"), ("a/[xy]/c/*", "a")]
)
def test_the_root_of_a_glob(path, root):
    assert glob_root(path) == root


def test_a_link_to_a_file_is_listed_and_one_to_a_folder_is_not_followed(tmp_path):
    put(str(tmp_path), "store/a.png", "images/sub/b.png")
    images = tmp_path / "images"
    (images / "link.png").symlink_to(tmp_path / "store" / "a.png")
    (images / "broken.png").symlink_to(tmp_path / "nowhere")
    (images / "loop").symlink_to(images)
    assert below(str(images), str(images)) == ["broken.png", "link.png", "sub/b.png"]
    assert {file.size for file in iter_files(str(images))} == {0, len("store/a.png"), len("images/sub/b.png")}


def test_more_files_than_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.walk.PAGE", 3)
    monkeypatch.setattr("pipeline.walk.FOLDERS", 2)
    names = [f"{i % 5}/{i % 3}/{i}.png" for i in range(40)]
    put(str(tmp_path), *names)
    assert below(str(tmp_path), str(tmp_path)) == sorted(names)


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3).map(tuple)))
def test_any_tree_of_names_is_found_once(paths):
    """A path that is a folder of another one is left out of the tree."""
    folders = {path[:i] for path in paths for i in range(1, len(path))}
    names = sorted("/".join(path) for path in paths - folders)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            os.makedirs(os.path.dirname(f"{folder}/{name}"), exist_ok=True)
            Path(f"{folder}/{name}").touch()
        assert below(folder, folder) == names


# --- S3 by pages: the server of the tests lists 20 keys on one


def test_a_bucket_of_many_folders_is_listed_in_ranges(s3):
    folder = f"{s3}/{uuid4().hex}"
    names = [f"{name}/{i}.png" for name in ("a", "a-b", "a b", "ü", "z/y") for i in range(9)]
    put(folder, *names, "a.png", "b.png", "zz.png")
    fs, path = storage.filesystem(folder)
    bucket, _, key = path.partition("/")
    cuts = walk_s3._cuts(fs, bucket, f"{key}/")
    assert [cut.removeprefix(f"{key}/") for cut in cuts] == sorted(["a/", "a-b/", "a b/", "ü/", "z/", "z/y/"])
    assert sorted(iter_files(folder)) == storage.list_files(folder)


@pytest.fixture
def fake_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBucket]:
    """A server that lists 3,210 keys in 11 folders, 1,000 on a page."""
    bucket = FakeBucket(keys=3210, folders=11)
    with s3_server(bucket) as endpoint, monkeypatch.context() as patch:
        for name, value in {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}.items():
            patch.setenv(f"AWS_{name}", value)
        S3FileSystem.clear_instance_cache()
        yield bucket
    S3FileSystem.clear_instance_cache()


def test_any_cuts_give_the_same_listing(fake_s3, monkeypatch):
    for cuts in ([], ["00"], ["00003/0000004.jpg", "00007/", "00007/0000000.jpg~", "1"]):
        monkeypatch.setattr(walk_s3, "_cuts", lambda *_, cuts=cuts: cuts)
        found = sorted(file.path for file in iter_files(f"s3://{BUCKET}"))
        assert found == [f"{BUCKET}/{fake_s3.key(i)}" for i in range(3210)]


def test_entries_are_what_botocore_reads(fake_s3):
    slow = storage.list_files(f"s3://{BUCKET}")
    S3FileSystem.clear_instance_cache()
    fast = sorted(iter_files(f"s3://{BUCKET}"))
    assert [file._replace(mtime="") for file in fast] == [file._replace(mtime="") for file in slow]
    assert [datetime.fromisoformat(file.mtime) for file in fast] == [datetime.fromisoformat(f.mtime) for f in slow]


def test_a_missing_bucket_and_wrong_credentials_are_reported(s3, monkeypatch):
    url = "s3://no-such-bucket"
    with pytest.raises(UserError, match=f"cannot list {url}: it does not"), storage.friendly_errors(url, "cannot list"):
        list(iter_files(url))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wr0ng")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match="access denied"), storage.friendly_errors(s3, "cannot list"):
        list(iter_files(f"{s3}/x"))
    S3FileSystem.clear_instance_cache()
