"""The end of a run: its rows are those of the plan, and files that a compaction left over are removed."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bulk.config import BulkConfig, Sharding
from pipeline.bulk.finish import _remove_compacted, check_rows
from pipeline.bulk.listing import list_input
from pipeline.bulk.plan import make_plan, store_plan
from pipeline.bulk.results import open_images, spread
from pipeline.bulk.shards import part_name

IDS = [f"{i:02d}.jpg" for i in range(22)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run of 22 images in shards of 3, whose plan has row groups of 4; without rows."""
    monkeypatch.setattr("pipeline.bulk.plan.ROW_GROUP", 4)
    (tmp_path / "list.txt").write_text("\n".join(IDS))
    config = BulkConfig(model="/m", images=str(tmp_path / "list.txt"), output="/o", sharding=Sharding(max_images=3))
    plan = make_plan(config, list_input(config.images), lambda ids: ([None] * len(some) for some in ids))
    assert store_plan(str(tmp_path), plan, {}).shard_images == [3] * 7 + [1]
    (tmp_path / "images").mkdir()
    return str(tmp_path)


def write(run: str, name: str, ids: list[str]) -> None:
    pq.write_table(pa.table({"image_id": pa.array(ids, pa.string())}), f"{run}/images/{name}", row_group_size=5)


def write_all(run: str) -> None:
    for shard in range(8):
        write(run, part_name(shard), IDS[3 * shard : 3 * shard + 3])


def test_files_of_one_and_of_many_shards_are_compared_with_the_plan(run):
    write_all(run)
    assert check_rows(run) == {f"images/{part_name(i)}": 3 for i in range(7)} | {f"images/{part_name(7)}": 1}
    for shard in range(1, 7):
        Path(run, "images", part_name(shard)).unlink()
    write(run, part_name(1, 6), IDS[3:21])
    assert list(check_rows(run).items()) == [
        ("images/part-00000.parquet", 3),
        ("images/part-00001-00006.parquet", 18),
        ("images/part-00007.parquet", 1),
    ]


@pytest.mark.parametrize(
    ("name", "ids", "message"),
    [
        (part_name(7), [], "the files hold 21 rows, and the plan has more"),
        (part_name(2), IDS[6:8], r"part-00003\.parquet does not hold the rows that the plan has for it"),
        (part_name(2), [IDS[6], IDS[8], IDS[7]], r"part-00002\.parquet does not hold"),
        (part_name(7), [IDS[21], "more.jpg"], r"part-00007\.parquet does not hold"),
        (part_name(8), ["more.jpg"], r"part-00008\.parquet does not hold"),
        (part_name(2, 3), IDS[6:12], r"does not hold"),
    ],
)
def test_other_rows_than_the_plans_are_an_error(run, name, ids, message):
    write_all(run)
    write(run, name, ids)
    with pytest.raises(RuntimeError, match=message):
        check_rows(run)


def test_a_missing_file_is_an_error(run):
    write_all(run)
    Path(run, "images", part_name(3)).unlink()
    with pytest.raises(RuntimeError, match=r"part-00004\.parquet does not hold"):
        check_rows(run)
    for shard in range(4, 8):
        Path(run, "images", part_name(shard)).unlink()
    with pytest.raises(RuntimeError, match="the files hold 9 rows, and the plan has more"):
        check_rows(run)


def test_files_that_an_interrupted_compaction_left_over_are_removed(run):
    write_all(run)
    write(run, part_name(2, 4), IDS[6:15])
    write(run, part_name(5, 6), IDS[15:21])
    _remove_compacted(run)
    left = sorted(path.name for path in Path(run, "images").iterdir())
    assert left == [part_name(0), part_name(1), part_name(2, 4), part_name(5, 6), part_name(7)]
    assert sum(check_rows(run).values()) == 22


@pytest.mark.parametrize("good", [[], [5], [3, 7], list(range(20)), [0, 1, 2, 9, 10, 11, 12, 18, 19]])
def test_pictures_are_spread_over_the_images_without_an_error(tmp_path, good):
    (tmp_path / "images").mkdir()
    names = []
    for i, rows in enumerate([range(7), range(7, 8), range(8, 20)]):
        names.append(f"images/{part_name(i)}")
        table = pa.table({"status": ["ok" if row in good else "error" for row in rows]})
        pq.write_table(table, tmp_path / names[-1], row_group_size=3)
    images = open_images(str(tmp_path), names)
    for count in (1, 2, 4, 30):
        chosen = spread(images, count)
        assert len(chosen) == min(count, len(good))
        assert set(chosen) <= set(good)
        assert chosen == sorted(chosen)
        if len(chosen) > 1:
            assert (chosen[0], chosen[-1]) == (good[0], good[-1])
