"""The end of a run: its rows are those of the plan, whatever was written, or left over, before."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.bulk.config import BulkConfig, Sharding
from pipeline.bulk.finish import _compact, check_rows, finish
from pipeline.bulk.listing import list_input
from pipeline.bulk.plan import make_plan, run_identity, store_plan
from pipeline.bulk.results import first_of_each
from pipeline.bulk.shards import PARTS_FOLDER, part_name, parts
from tests.support.shards import compute_shard, planned_run

SCHEMA = pa.schema([("image_id", pa.string())])
IDS = [f"{i:02d}.jpg" for i in range(22)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run of 22 images in shards of 3, whose plan has row groups of 4; without rows."""
    monkeypatch.setattr("pipeline.bulk.plan.ROW_GROUP", 4)
    (tmp_path / "list.txt").write_text("\n".join(IDS))
    config = BulkConfig(model="/m", images=str(tmp_path / "list.txt"), output="/o", sharding=Sharding(max_images=3))
    plan = make_plan(config, list_input(config.images), lambda ids: ([None] * len(some) for some in ids))
    assert store_plan(str(tmp_path), plan, {}).shard_images == [3] * 7 + [1]
    (tmp_path / PARTS_FOLDER).mkdir()
    (tmp_path / "images").mkdir()
    return str(tmp_path)


def write(run: str, shard: int, ids: list[str], folder: str = PARTS_FOLDER) -> None:
    table = pa.table({"image_id": pa.array(ids, pa.string())}, schema=SCHEMA)
    pq.write_table(table, f"{run}/{folder}/{part_name(shard)}", row_group_size=5)


def write_all(run: str) -> None:
    for shard in range(8):
        write(run, shard, IDS[3 * shard : 3 * shard + 3])


def checked(run: str) -> dict[str, int]:
    return check_rows(run, list(parts(run)))


def test_the_files_of_shards_are_compared_with_the_plan(run):
    write_all(run)
    assert list(checked(run).items()) == [(f"{PARTS_FOLDER}/{part_name(i)}", 3 if i < 7 else 1) for i in range(8)]


@pytest.mark.parametrize(
    ("shard", "ids", "message"),
    [
        (7, [], "the files hold 21 rows, and the plan has more"),
        (2, IDS[6:8], r"part-00003\.parquet does not hold the rows that the plan has for it"),
        (2, [IDS[6], IDS[8], IDS[7]], r"part-00002\.parquet does not hold"),
        (7, [IDS[21], "more.jpg"], r"part-00007\.parquet does not hold"),
        (8, ["more.jpg"], r"part-00008\.parquet does not hold"),
        (2, IDS[6:12], r"does not hold"),
    ],
)
def test_other_rows_than_the_plans_are_an_error(run, shard, ids, message):
    write_all(run)
    write(run, shard, ids)
    with pytest.raises(RuntimeError, match=message):
        checked(run)


def test_a_missing_file_is_an_error(run):
    write_all(run)
    Path(run, PARTS_FOLDER, part_name(3)).unlink()
    with pytest.raises(RuntimeError, match=r"part-00004\.parquet does not hold"):
        checked(run)
    for shard in range(4, 8):
        Path(run, PARTS_FOLDER, part_name(shard)).unlink()
    with pytest.raises(RuntimeError, match="the files hold 9 rows, and the plan has more"):
        checked(run)


def test_shards_are_merged_and_what_an_interrupted_driver_left_over_is_removed(run, monkeypatch):
    monkeypatch.setattr("pipeline.bulk.finish._picture_bytes", lambda footer: footer.num_rows)
    monkeypatch.setattr("pipeline.bulk.finish.TARGET_BYTES", 22)
    write_all(run)
    write(run, 5, ["late.jpg"], "images")
    assert _compact(run, parts(run), SCHEMA) == ["images/part-00000-00007.parquet"]
    written = Path(run, "images", part_name(0, 7))
    assert list(written.parent.iterdir()) == [written]
    assert pq.read_table(written)["image_id"].to_pylist() == IDS
    before = written.stat().st_mtime_ns
    assert check_rows(run, _compact(run, parts(run), SCHEMA)) == {"images/part-00000-00007.parquet": 22}
    assert written.stat().st_mtime_ns == before  # a driver that goes on does not merge again


def test_a_shard_that_is_written_once_more_adds_nothing_to_a_finished_run(tmp_path):
    """A worker may outlive its driver, and write while or after another one finishes the run."""
    kind, run = planned_run(tmp_path, colours=[(0, 0, 0), (250, 0, 0)])
    compute_shard(kind, run)
    finish(
        run,
        run_id="x",
        schema=kind.images_schema(run_identity(kind.config, kind.card, kind.classes)),
        kind=kind,
        still_ours=lambda: None,
    )
    assert not list(Path(run, PARTS_FOLDER).iterdir())
    compute_shard(kind, run)
    rows = duckdb.sql(f"SELECT image_id FROM read_parquet('{tmp_path}/runs/*/images/*.parquet') ORDER BY 1").fetchall()
    assert rows == [("0.png",), ("1.png",)]


def test_the_sheet_shows_the_first_of_each_group():
    groups = {"worst": [5, 1, 7], "best": [2], "random": [9, 3]}
    assert first_of_each(groups, 3) == {5, 2, 9}
    assert first_of_each(groups, 5) == {5, 2, 9, 1, 3}
    assert first_of_each(groups, 9) == {5, 2, 9, 1, 3, 7}
    assert first_of_each({}, 9) == set()
