"""The plan of a run: its shards, its stored form, its summary, and its ground truth."""

import itertools
import pickle
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.bulk.config import Sharding
from pipeline.bulk.earlier import Earlier
from pipeline.bulk.listing import list_input
from pipeline.bulk.plan import (
    SCHEMA,
    PlanReader,
    PlanSummary,
    existing_plan,
    make_plan,
    read_plan,
    store_plan,
    summarize,
)
from pipeline.bulk.run import format_plan
from pipeline.bulk.segmentation.config import SegmentConfig
from pipeline.bulk.segmentation.run import SegmentationRun
from pipeline.bulk.shards import PARTS_FOLDER, cut_shards, part_name, parts
from pipeline.bulk.table_stream import split
from pipeline.card import Card
from pipeline.data.classes import Classes
from pipeline.data.datasets import files_by_key
from pipeline.errors import UserError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * 10)


def nothing_known(ids: Iterable[list[str]]) -> Iterator[list[str | None]]:
    return ([None] * len(some) for some in ids)


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


def cut_at_once(sizes: list[int], *, max_images: int, max_bytes: int) -> list[int]:
    """Shards of a list that is known as a whole; its last images are in smaller ones."""
    shards: list[int] = []
    members: list[int] = []
    shard = 0
    smaller = min(max_images, max(4, max_images // 4))
    for i, size in enumerate(sizes):
        most = smaller if len(sizes) - i < 4 * max_images else max_images
        if members and (len(members) >= most or sum(members) + size > max_bytes):
            shard, members = shard + 1, []
        members.append(size)
        shards.append(shard)
    return shards


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 127, 128, 511, 600, 8191, 8192, 8193, 9000])
def test_by_default_the_number_of_images_decides(count):
    rng = random.Random(count)
    sizes = [rng.choice([0, 10**4, 10**5, 10**6, 40 * 10**6]) for _ in range(count)]
    expected = cut_at_once(sizes, max_images=min(256, max(4, count // 32)), max_bytes=32 * 2**20)
    assert list(cut_shards(sizes, Sharding())) == expected


def test_a_long_collection_is_cut_into_larger_shards(monkeypatch):
    monkeypatch.setattr("pipeline.bulk.shards.FINE_SHARDS", 40)
    shards = Counter(cut_shards(itertools.repeat(100_000, 40 * 256 + 7 * 2048 + 5), Sharding()))
    assert list(shards.values()) == [256] * 40 + [2048] * 3 + [512] * 16 + [5]
    by_bytes = Counter(cut_shards(itertools.repeat(2**20, 40 * 32 + 40 * 256), Sharding()))
    assert list(by_bytes.values()) == [32] * 40 + [256] * 40
    given = Counter(cut_shards(itertools.repeat(2**20, 1000), Sharding(max_images=9, max_bytes=5 * 2**20)))
    assert set(given.values()) == {5}
    slow = Counter(cut_shards(itertools.repeat(100_000, 8192), Sharding(), slow=True))
    assert list(slow.values()) == [64] * 40 + [512] * 7 + [128] * 16


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
    assert [len(reader.shard(shard)) for shard in range(3)] == [3, 3, 1]
    rows = reader.shard(1)
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
        assert reader.shard(shard) == plan.filter(pc.equal(plan["shard"], shard)).to_pylist()


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_the_summary_describes_the_plan_however_it_comes(tmp_path, monkeypatch, rows):
    monkeypatch.setattr("pipeline.bulk.plan.ROW_GROUP", 4)
    (tmp_path / "images").mkdir()
    for i in range(30):
        (tmp_path / "images" / f"{i:02d}.jpg").write_bytes(b"x" * (i % 7))
    places = {"model": "m", "images": str(tmp_path / "images"), "output": str(tmp_path / "runs")}
    config = SegmentConfig(**places, sharding=Sharding(max_images=4, max_bytes=14))
    tables = split(list_input(config.images), rows)
    known = {f"{i:02d}.jpg" for i in range(0, 30, 3)}
    plan = list(make_plan(config, tables, lambda ids: ([i if i in known else None for i in some] for some in ids)))
    stored = store_plan(str(tmp_path / "run"), plan, {"config": {}})
    whole = pa.concat_tables(plan)
    assert whole["shard"].to_pylist() == cut_at_once([i % 7 for i in range(30)], max_images=4, max_bytes=14)
    assert stored == summarize(plan)
    assert stored.shard_images == list(Counter(whole["shard"].to_pylist()).values())
    assert (stored.images, stored.bytes, stored.largest) == (30, sum(i % 7 for i in range(30)), 6)
    assert stored.with_truth == 10
    assert [table.num_rows for table in read_plan(str(tmp_path / "run"), ["uri"])] == [4] * 7 + [2]


def test_resuming_reads_the_summary_alone(tmp_path):
    touch(tmp_path / "images", *(f"{i:02d}.jpg" for i in range(20)))
    config = SegmentConfig(model="m", images=str(tmp_path / "images"), output="o", sharding=Sharding(max_images=3))
    run = str(tmp_path / "run")
    assert existing_plan(run, {"config": {}}) is None
    stored = store_plan(run, make_plan(config, list_input(config.images), nothing_known), {"config": {}})
    (tmp_path / "run" / "_run" / "plan.parquet").unlink()
    assert existing_plan(run, {"config": {}}) == stored
    assert stored.shard_images == [3] * 6 + [2]


def test_a_plan_of_no_image(tmp_path):
    config = SegmentConfig(model="m", images="i", output="o")
    stored = store_plan(
        str(tmp_path), make_plan(config, iter([SCHEMA.empty_table().select(range(6))]), nothing_known), {}
    )
    assert (stored.images, stored.shard_images, list(read_plan(str(tmp_path)))) == (0, [], [])
    assert format_plan(stored, "/run") == "/run: 0 images, 0 B in 0 shards"


def test_the_line_that_describes_a_plan():
    plan = PlanSummary(shard_images=[256, 256, 7], bytes=3 * 2**20, largest=2**11, with_truth=1200)
    text = (
        "s3://out/run: 519 images, 3.0 MiB in 3 shards of 1.0 MiB; the largest image is 2.0 KiB; 1,200 with ground "
        "truth"
    )
    assert format_plan(plan, "s3://user:secret@out/run") == text
    assert format_plan(plan, "s3://user:secret@out/run", Earlier("s3://user:secret@out/night-1", 1234)) == (
        f"{text}; new or changed since s3://out/night-1; 1,234 images of the earlier run are no longer there"
    )
    assert format_plan(plan, "s3://out/run", Earlier("s3://out/1"), retries=True) == f"{text}; the errors of s3://out/1"


def test_label_maps_are_listed_once_and_missed_only_at_the_end(tmp_path, monkeypatch):
    touch(tmp_path / "labels", "a.png", "c.png")
    card = Card(architecture="fcn8s_vgg16", options={}, classes=Classes(names=("a", "b")))
    config = SegmentConfig(model="m", images="i", output="o", labels=str(tmp_path / "labels"))
    run = SegmentationRun(config, card, card.classes)
    listings = Counter[str]()
    list_labels = files_by_key

    def count(url: str) -> dict[str, str]:
        listings[url] += 1
        return list_labels(url)

    monkeypatch.setattr("pipeline.data.datasets.files_by_key", count)
    found = list(run.truth([["x.jpg", "y.jpg"], ["b.jpg", "c.jpg"], ["d.jpg"]]))
    assert found == [[None, None], [None, f"{tmp_path}/labels/c.png"], [None]]
    assert listings.total() == 1
    truths = run.truth([["x.jpg"], ["y.jpg"]])
    assert [next(truths), next(truths)] == [[None], [None]]
    with pytest.raises(UserError, match=r"has the name of an image; the first image is 'x\.jpg', the first .* 'a'"):
        next(truths)
    assert list(run.truth([])) == []


def test_file_names_give_the_shards(tmp_path):
    names = [part_name(100000), part_name(0), part_name(1, 1), part_name(2, 7), "other.parquet", "part-3.txt"]
    touch(tmp_path / PARTS_FOLDER, *names)
    assert list(parts(str(tmp_path)).items()) == [
        ("_run/parts/part-00000.parquet", 0),
        ("_run/parts/part-00001.parquet", 1),
        ("_run/parts/part-100000.parquet", 100000),
    ]
