"""Ids are unique relative paths, whatever the files are called, and those of ordinary files are their keys."""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.bulk.archives.archive import truth_key
from pipeline.bulk.listing import list_input
from pipeline.bulk.table_input import read_encoded
from pipeline.data.formats import ImageError
from pipeline.data.image_ids import listed_id, named_id
from pipeline.errors import UserError
from tests.support.archives import tar_of

NAMES = st.text(st.sampled_from("ab./\\\udcff#é \0"), min_size=1, max_size=12) | st.text(min_size=1, max_size=20)


def images(url: object) -> list[dict[str, Any]]:
    return pa.concat_tables(list_input(str(url))).to_pylist()


def is_safe(image_id: str) -> bool:
    parts = image_id.split("/")
    return not {"", ".", ".."} & set(parts) and storage.is_utf8(image_id)


@given(NAMES.map(lambda name: name + ".jpg") | NAMES)
@example("..")
@example("/")
@example("a/../../../etc/passwd")
@example("s3://b/../x.jpg")
def test_every_id_is_a_path_below_a_folder(name):
    for image_id in (listed_id(name), named_id(name)):
        assert is_safe(image_id)
        assert PurePosixPath(os.path.normpath(os.path.join("/out", image_id))).is_relative_to("/out")


@given(st.lists(NAMES, unique=True, max_size=20))
def test_no_two_keys_of_a_listing_have_the_same_id(keys):
    keys += [listed_id(key) for key in keys if listed_id(key) not in keys]  # also where a file has the id of another
    assert len({listed_id(key) for key in keys}) == len(set(keys))


@pytest.mark.parametrize(
    "key",
    ["a.jpg", "a/b c/d#1.png", "a..b.jpg", "...jpg", "d/..a/b.jpg", "日本/é.webp", "-rf.jpg", "<b>'; DROP TABLE.png"],
)
def test_an_ordinary_key_is_its_own_id(key):
    assert listed_id(key) == named_id(key) == key


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("../x.jpg", r"x#id=[0-9a-f]{16}\.jpg"),
        ("/x.jpg", r"x#id=[0-9a-f]{16}\.jpg"),
        ("a//x.jpg", r"a/x#id=[0-9a-f]{16}\.jpg"),
        ("a/./b\udcff.jpg", r"a/b\\xff#id=[0-9a-f]{16}\.jpg"),
        ("x#id=0123456789abcdef.jpg", r"x#id=0123456789abcdef#id=[0-9a-f]{16}\.jpg"),
    ],
)
def test_an_unsafe_key_of_a_listing_is_marked(key, expected):
    assert re.fullmatch(expected, listed_id(key))
    assert listed_id(key) == listed_id(key)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/data/a.jpg", "data/a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("../images/a.jpg", "images/a.jpg"),
        ("s3://bucket/a/../../../b.jpg", "b.jpg"),
        ("s3://bucket/a//b.jpg", "s3/bucket/a/b.jpg"),
        ("https://user:word@host:80/a.jpg?X-Amz-Signature=1", "https/host:80/a.jpg"),
        ("file:///etc/passwd", "file/etc/passwd"),
    ],
)
def test_the_id_of_a_named_place_is_its_path(place, expected):
    assert named_id(place) == expected


def test_label_maps_of_marked_images_are_found():
    for image_id in (listed_id("/a/x.jpg"), "a/x.jpg"):
        assert truth_key(image_id, {"a/x": ""}) == "a/x"


def test_files_whose_names_are_not_utf_8_are_planned_beside_the_others(tmp_path):
    folder = os.fsencode(tmp_path / "images")
    os.makedirs(folder + b"/caf\xe9")
    names = [b"a.jpg", b"b\xff.jpg", b"b\\xff.jpg", b"caf\xe9/c.jpg", b"caf\xe9/d.jpg"]
    for name in names:
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(name)
    found = images(tmp_path / "images")
    assert len(found) == 5
    assert [image["image_id"] for image in found] == sorted({image["image_id"] for image in found})
    by_name = {image["image_id"].partition("#id=")[0]: image for image in found}
    assert set(by_name) == {"a.jpg", "b\\xff.jpg", "b\\xff", "caf\\xe9/c", "caf\\xe9/d"}
    for key in ("a.jpg", "b\\xff.jpg"):
        image = by_name[key]
        assert read_encoded(image["uri"], image["row"]) == key.encode()
    image = by_name["b\\xff"]  # not the file of that name in ASCII
    assert image["uri"] == f"{tmp_path}/images/b\\xff.jpg"
    assert (image["bytes"], bool(image["mtime"])) == (6, True)  # so that --since sees a change
    with pytest.raises(ImageError, match=r"the name of the file is not UTF-8 \(.*\\xNN\); rename it"):
        read_encoded(image["uri"], image["row"])
    assert images(tmp_path / "images") == found


def test_a_line_of_a_list_and_an_archive_that_are_not_utf_8_are_rows_too(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a.jpg\nb\xff.jpg\n")
    ids = [image["image_id"] for image in images(tmp_path / "list.txt")]
    assert ids[0] == "a.jpg"
    assert ids[1].startswith("b\\xff#id=")
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in (b"good.tar", b"n\xff.tar"):
        Path(os.fsdecode(os.fsencode(shards) + b"/" + name)).write_bytes(tar_of({"x.jpg": b"1", "y.jpg": b"2"}))
    found = images(shards)
    assert [image["image_id"].partition("#id=")[0] for image in found] == ["good.tar/x.jpg", "good.tar/y.jpg", "n\\xff"]
    with pytest.raises(ImageError, match="rename it"):
        read_encoded(found[2]["uri"], found[2]["row"])


def test_a_table_whose_name_is_not_utf_8_is_refused(tmp_path):
    pq.write_table(pa.table({"image": [b"1"]}), tmp_path / "t.parquet")
    (tmp_path / "t.parquet").rename(os.fsdecode(os.fsencode(tmp_path) + b"/t\xff.parquet"))
    with pytest.raises(UserError, match=r"/t\\xff\.parquet: the name of this table is not UTF-8; rename it"):
        images(tmp_path)


def test_names_of_one_id_are_refused_with_both_places(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\n./a.jpg\n")
    with pytest.raises(
        UserError, match=r"'a\.jpg' occurs twice, for \S+/a\.jpg and \S+/\./a\.jpg; name each image once"
    ):
        images(tmp_path / "list.txt")
    pq.write_table(pa.table({"image_id": ["x", "/x"], "uri": ["/a", "/b"]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"'x' occurs twice, for /a and /b; .* the column 'image_id'"):
        images(tmp_path / "t.parquet")


def test_ids_of_a_table_are_made_safe(tmp_path):
    table = pa.table({"image_id": ["../../x", "/etc/passwd", "y"], "image": [b"1", b"2", b"3"]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert [image["image_id"] for image in images(tmp_path / "t.parquet")] == ["etc/passwd", "x", "y"]


def test_pipes_and_devices_are_listed_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "nowhere.png").symlink_to("none.png")
    found = {image["image_id"]: image["uri"] for image in images(tmp_path)}
    assert set(found) == {"pipe.png", "device.png", "nowhere.png"}
    for name in ("pipe.png", "device.png"):
        with pytest.raises(
            storage.SpecialFileError, match="a pipe, a socket or a device; replace it by a regular file"
        ):
            storage.read_bytes(found[name])


def test_pipes_among_archives_and_tables_are_not_opened(tmp_path):
    shards, tables = tmp_path / "shards", tmp_path / "tables"
    for folder, name in ((shards, "pipe.tar"), (shards, "pipe.zip"), (tables, "pipe.parquet")):
        folder.mkdir(exist_ok=True)
        os.mkfifo(folder / name)
    (shards / "good.tar").write_bytes(tar_of({"a.jpg": b"1"}))
    found = images(shards)
    assert [image["image_id"] for image in found] == ["good.tar/a.jpg", "pipe.tar#offset=0", "pipe.zip#offset=0"]
    for image in found[1:]:
        with pytest.raises(storage.SpecialFileError):
            read_encoded(image["uri"], image["row"], image["bytes"])
    with pytest.raises(UserError, match=r"cannot read the table \S+/pipe\.parquet: it is a pipe, a socket or a device"):
        images(tables)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(3 * 2**30)
    (tmp_path / "list.txt").write_text("sparse.png\n")
    for source, size in ((tmp_path, 3 * 2**30), (tmp_path / "list.txt", 0)):
        (image,) = images(source)
        assert image["bytes"] == size
        with pytest.raises(
            ImageError, match=r"the file has 3,221,225,472 bytes; images of more than 2,147,483,648 bytes"
        ):
            read_encoded(image["uri"], image["row"], image["bytes"])
