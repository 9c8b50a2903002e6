"""Listing the input: every image once, in a fixed order, with a stable id."""

import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bulk.listing import list_input
from pipeline.bulk.table_input import read_table_images
from pipeline.errors import UserError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 10)


def ids(url: object) -> list[str]:
    return [row["image_id"] for row in images(url)]


def images(url: object) -> list[dict[str, Any]]:
    return pa.concat_tables(list_input(str(url))).to_pylist()


def test_a_folder_gives_keys_below_it_in_order(tmp_path):
    touch(tmp_path, "b.JPG", "a/z.png", "a/b/c.webp", ".hidden.jpg", "a/.cache/x.png", "notes.txt", "B.jpg")
    assert ids(tmp_path) == ["B.jpg", "a/b/c.webp", "a/z.png", "b.JPG"]


def test_a_glob_gives_keys_below_its_fixed_part(tmp_path):
    touch(tmp_path, "d1/a.jpg", "d1/b.png", "d2/a.jpg", "e/a.jpg")
    assert ids(tmp_path / "d*" / "a.jpg") == ["d1/a.jpg", "d2/a.jpg"]


def test_a_folder_whose_name_looks_like_a_glob(tmp_path):
    touch(tmp_path / "set[1]", "a.jpg", "sub/b.jpg")
    assert ids(tmp_path / "set[1]") == ["a.jpg", "sub/b.jpg"]


def test_a_list_takes_urls_and_keys_relative_to_it(tmp_path):
    (tmp_path / "list.txt").write_text("# night\nsub/b.jpg\n\n/data/a.jpg\ns3://bucket/key.png\n")
    found = {image["image_id"]: image["uri"] for image in images(tmp_path / "list.txt")}
    assert found == {
        "sub/b.jpg": f"{tmp_path}/sub/b.jpg",
        "data/a.jpg": "/data/a.jpg",
        "s3/bucket/key.png": "s3://bucket/key.png",
    }


def test_the_same_id_twice_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\na.jpg\n")
    with pytest.raises(
        UserError, match=r"the image id 'a\.jpg' occurs twice, for \S+/a\.jpg and \S+/a\.jpg; name each"
    ):
        list_input(str(tmp_path / "list.txt"))


def test_the_same_id_in_two_folders_is_refused_wherever_the_tables_end(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.bulk.table_stream.RUN_ROWS", 2)
    monkeypatch.setattr("pipeline.bulk.table_stream.BATCH_ROWS", 1)
    for folder, names in {"a": ["k", "x", "y"], "b/c": ["m", "x", "z"]}.items():
        (tmp_path / "tables" / folder).mkdir(parents=True)
        table = pa.table({"image_id": names, "image": [b"1", b"2", b"3"]})
        pq.write_table(table, tmp_path / "tables" / folder / "t.parquet")
    with pytest.raises(UserError, match=r"tables: the image id 'x' occurs twice"):
        images(tmp_path / "tables")


def test_a_list_may_be_empty_or_have_a_byte_order_mark(tmp_path):
    (tmp_path / "list.txt").write_text("# nothing\n\n")
    with pytest.raises(UserError, match=r"the list .*list\.txt is empty"):
        images(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("\ufeffa.jpg\r\nb.jpg", newline="")
    assert ids(tmp_path / "list.txt") == ["a.jpg", "b.jpg"]


def test_numbers_are_ids_too(tmp_path):
    pq.write_table(pa.table({"image_id": [10, 9, None], "uri": ["/a", "/b", "/c"]}), tmp_path / "t.parquet")
    assert [(row["image_id"], row["uri"]) for row in images(tmp_path / "t.parquet")] == [
        ("10", "/a"),
        ("9", "/b"),
        ("c", "/c"),
    ]


PARTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.lists(PARTS.filter(lambda part: not part.startswith(".")), min_size=1, max_size=3).map("/".join)),
    st.integers(1, 9),
)
def test_the_images_of_any_tree_are_ordered_by_id(stems, run_rows):
    names = sorted(f"{stem}.png" for stem in stems)
    with tempfile.TemporaryDirectory() as folder, patch("pipeline.bulk.table_stream.RUN_ROWS", run_rows):
        touch(Path(folder), "keep/this.jpg", *names)
        expected = sorted(["keep/this.jpg", *names])
        assert ids(folder) == expected
        assert [image["uri"] for image in images(folder)] == [f"{folder}/{name}" for name in expected]


def test_a_table_without_an_image_column_is_refused(tmp_path):
    pq.write_table(pa.table({"name": ["a"]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"no column 'uri'.*it has name"):
        list_input(str(tmp_path / "t.parquet"))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.binary())])])
def test_rows_of_a_table_are_found_in_their_row_groups(tmp_path, kind):
    values = [f"image {i}".encode() for i in range(10)]
    column = [{"bytes": v} for v in values] if pa.types.is_struct(kind) else values
    pq.write_table(pa.table({"image": pa.array(column, kind)}), tmp_path / "t.parquet", row_group_size=3)
    found = read_table_images(str(tmp_path / "t.parquet"), [0, 4, 9])
    assert found == {0: b"image 0", 4: b"image 4", 9: b"image 9"}
    rows = images(tmp_path / "t.parquet")
    assert [image["row"] for image in rows] == list(range(10))
    assert len({image["image_id"] for image in rows}) == 10
