"""Listing the input and cutting it into shards: every image once, in a fixed order, with a stable id."""

import itertools
import pickle
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.bulk.config import Sharding
from pipeline.bulk.listing import list_input
from pipeline.bulk.plan import SCHEMA, PlanReader, make_plan, read_plan, store_plan
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.shards import cut_shards, part_name, parts
from pipeline.bulk.table_input import read_table_images
from pipeline.errors import UserError
from pipeline.walk import glob_root


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 10)


def ids(url: object) -> list[str]:
    return [row["image_id"] for row in images(url)]


def images(url: object) -> list[dict[str, Any]]:
    return pa.concat_tables(list_input(str(url))).to_pylist()


def nothing_known(ids: Iterable[list[str]]) -> Iterator[list[None]]:
    return ([None] * len(some) for some in ids)


def test_a_folder_gives_keys_below_it_in_order(tmp_path):
    touch(tmp_path, "b.JPG", "a/z.png", "a/b/c.webp", ".hidden.jpg", "a/.cache/x.png", "notes.txt", "B.jpg")
    assert ids(tmp_path) == ["B.jpg", "a/b/c.webp", "a/z.png", "b.JPG"]


def test_a_glob_gives_keys_below_its_fixed_part(tmp_path):
    touch(tmp_path, "d1/a.jpg", "d1/b.png", "d2/a.jpg", "e/a.jpg")
    assert ids(tmp_path / "d*" / "a.jpg") == ["d1/a.jpg", "d2/a.jpg"]


@pytest.mark.parametrize(
    ("path", "root"), [("a/b/2026-*/x.jpg", "a/b"), ("a/b", "a/b"), ("a/?/c", "a"), ("a/[xy]/c/*", "a")]
)
def test_the_root_of_a_glob(path, root):
    assert glob_root(path) == root


def test_a_folder_whose_name_looks_like_a_glob(tmp_path):
    touch(tmp_path / "set[1]", "a.jpg", "sub/b.jpg")
    assert ids(tmp_path / "set[1]") == ["a.jpg", "sub/b.jpg"]


def test_a_list_takes_urls_and_keys_relative_to_it(tmp_path):
    (tmp_path / "list.txt").write_text("# night\nsub/b.jpg\n\n/data/a.jpg\ns3://bucket/key.png\n")
    found = {image["image_id"]: image["uri"] for image in images(tmp_path / "list.txt")}
    assert found == {
        "sub/b.jpg": f"{tmp_path}/sub/b.jpg",
        "/data/a.jpg": "/data/a.jpg",
        "s3://bucket/key.png": "s3://bucket/key.png",
    }


def test_a_signed_url_keeps_its_signature_out_of_the_id(tmp_path):
    (tmp_path / "list.txt").write_text("https://host/a.jpg?X-Amz-Signature=secret\n")
    (image,) = images(tmp_path / "list.txt")
    assert image["image_id"] == "https://host/a.jpg"
    assert image["uri"].endswith("secret")


def test_the_same_id_twice_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\na.jpg\n")
    with pytest.raises(UserError, match=r"the image id 'a\.jpg' occurs twice"):
        list_input(str(tmp_path / "list.txt"))


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


def test_shards_keep_order_and_bounds():
    rng = random.Random(0)
    for _ in range(100):
        sizes = [rng.choice([0, 1, 5, 20, 200]) for _ in range(rng.randint(1, 80))]
        bounds = Sharding(max_images=rng.randint(1, 10), max_bytes=rng.randint(1, 100))
        shards = list(cut_shards(sizes, bounds))
        assert len(shards) == len(sizes)
        assert shards[0] == 0
        assert all(b - a in (0, 1) for a, b in itertools.pairwise(shards))
        for shard in set(shards):
            members = [size for size, s in zip(sizes, shards, strict=True) if s == shard]
            assert len(members) <= (bounds.max_images or 0)
            assert sum(members) <= (bounds.max_bytes or 0) or len(members) == 1


def test_a_stored_plan_is_read_back_whole_and_by_shard(tmp_path):
    touch(tmp_path / "images", *(f"{i:02d}.jpg" for i in range(7)))
    config = SegmentConfig(
        model="m",
        images=str(tmp_path / "images"),
        output=str(tmp_path / "runs"),
        sharding=Sharding(max_images=3),
    )
    known = {"03.jpg": "of 03.jpg"}
    plan = list(
        make_plan(config, list_input(config.images), lambda ids: ([known.get(i) for i in some] for some in ids))
    )
    store_plan(str(tmp_path / "run"), plan, {})
    stored = pa.concat_tables(read_plan(str(tmp_path / "run")))
    assert stored.equals(pa.concat_tables(plan))
    assert stored.schema == SCHEMA
    reader = PlanReader(str(tmp_path / "run"))
    assert [len(reader.shard(shard).images) for shard in range(3)] == [3, 3, 1]
    rows, first = reader.shard(1)
    assert first == 3
    assert [row["image_id"] for row in rows] == ["03.jpg", "04.jpg", "05.jpg"]
    assert [row["truth"] for row in rows] == ["of 03.jpg", None, None]


def test_a_shard_is_found_wherever_the_row_groups_of_the_plan_end(tmp_path, monkeypatch):
    """Shards of three images in row groups of four: every second shard lies in two groups."""
    monkeypatch.setattr("pipeline.bulk.plan.ROW_GROUP", 4)
    touch(tmp_path / "images", *(f"{i:02d}.jpg" for i in range(20)))
    places = {"model": "m", "images": str(tmp_path / "images"), "output": str(tmp_path / "runs")}
    config = SegmentConfig(**places, sharding=Sharding(max_images=3))
    store_plan(str(tmp_path / "run"), make_plan(config, list_input(config.images), nothing_known), {})
    plan = pa.concat_tables(read_plan(str(tmp_path / "run")))
    assert pq.ParquetFile(tmp_path / "run" / "_run" / "plan.parquet").num_row_groups == 5
    reader = pickle.loads(pickle.dumps(PlanReader(str(tmp_path / "run"))))
    for shard in (6, 0, 1, 5, 2):
        rows, first = reader.shard(shard)
        assert rows == plan.filter(pc.equal(plan["shard"], shard)).to_pylist()
        assert first == 3 * shard


def test_file_names_give_the_shards(tmp_path):
    names = [part_name(0), part_name(1, 1), part_name(2, 7), "other.parquet", "part-3.txt"]
    touch(tmp_path / "images", *names)
    assert parts(str(tmp_path)) == {
        "images/part-00000.parquet": range(0, 1),
        "images/part-00001.parquet": range(1, 2),
        "images/part-00002-00007.parquet": range(2, 8),
    }
