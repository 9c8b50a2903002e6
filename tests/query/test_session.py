"""Which runs are queried, what the views hold, and that nothing else can be read or written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import open_run, storage
from pipeline.commands import query
from pipeline.data.images import decode_mask
from pipeline.errors import UserError
from pipeline.query.descriptions import VIEWS, describe_column
from pipeline.query.overview import format_overview
from pipeline.query.runs import find_runs
from pipeline.query.session import QueriedRuns
from tests.support.jobs import REPO
from tests.support.nights import Killed, compute, config_of, draw, without_ray
from tests.support.runs import rows_of, the_run

NIGHT = "run_id=2026-11-26"


def values(run: QueriedRuns, sql: str) -> list[tuple]:
    return [tuple(row.values()) for row in run.sql(sql).to_pylist()]


# --- which runs


def test_a_folder_stands_for_its_newest_finished_run(queried, capsys):
    runs, notes = find_runs(str(queried / "masks"))
    assert [run.run_id for run in runs] == ["2026-11-26"]
    assert notes == [f"{NIGHT}, the newest of 2 finished runs (--run-id NAME takes another, --all-runs all)"]
    runs, notes = find_runs(str(queried / "masks"), run_id="2026-11-25")
    assert ([run.run_id for run in runs], notes) == (["2026-11-25"], [])
    assert find_runs(str(queried / "masks" / NIGHT))[1] == find_runs(str(queried / "boxes"))[1] == []


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("nowhere", {}, "nowhere does not exist; name the folder of a run, OUTPUT/run_id=…$"),
        ("pictures", {}, "pictures is not a run; name the folder of a run, OUTPUT/run_id=…$"),
        ("masks", {"run_id": "x"}, "masks has no run 'x'; it has 2026-11-25, 2026-11-26$"),
        (f"masks/{NIGHT}", {"run_id": "x"}, "^--run-id x: .* is a run itself; name the folder that holds the runs"),
        (f"masks/{NIGHT}", {"all_runs": True}, "^--all-runs: .* is a run itself"),
    ],
)
def test_a_run_that_is_not_there_is_one_line(queried, folder, options, message):
    with pytest.raises(UserError, match=message) as error:
        open_run(queried / folder, **options)
    assert "\n" not in str(error.value)


def test_of_a_run_that_is_not_finished_the_views_hold_what_is_written(tmp_path, monkeypatch, capsys):
    draw(tmp_path / "images", *(f"{i}.png" for i in range(9)), *(f"broken-{i}.png" for i in range(3)))

    def stop(shard: int) -> None:
        if shard == 2:
            raise Killed

    without_ray(monkeypatch, stop=stop)
    with pytest.raises(Killed):
        compute(config_of(tmp_path, run_id="x"))
    with pytest.raises(UserError, match=r"runs has no finished run; --run-id NAME queries what one has written: x$"):
        open_run(tmp_path / "runs")
    capsys.readouterr()
    query.main([f"{tmp_path}/runs", "SELECT count(*) AS n FROM images", "--run-id", "x", "--format", "csv"])
    out, err = capsys.readouterr()
    assert out == "n\n6\n"
    assert err == f"{tmp_path}/runs/run_id=x is not finished: the views hold 2 of its 4 shards\n"
    assert values(open_run(f"{tmp_path}/runs/run_id=x"), "SELECT finished FROM runs") == [(None,)]

    without_ray(monkeypatch)
    compute(config_of(tmp_path, run_id="x"))
    run = open_run(tmp_path / "runs")
    assert values(run, "SELECT count(*), count(DISTINCT image_id) FROM images") == [(12, 12)]
    assert values(run, "SELECT error_class, count(*) FROM errors GROUP BY ALL") == [("ImageError", 3)]


def test_a_run_without_rows_says_where_to_look(tmp_path, monkeypatch):
    draw(tmp_path / "images", "0.png")

    def stop(shard: int) -> None:
        raise Killed

    without_ray(monkeypatch, stop=stop)
    with pytest.raises(Killed):
        compute(config_of(tmp_path, run_id="x"))
    with pytest.raises(UserError, match=r"has written no rows yet; segpipe status .*run_id=x shows how far it is"):
        open_run(tmp_path / "runs/run_id=x")


def test_a_night_without_news_has_the_columns(tmp_path, monkeypatch):
    without_ray(monkeypatch)
    draw(tmp_path / "images", "a.png")
    compute(config_of(tmp_path, run_id="1"))
    compute(config_of(tmp_path, run_id="2", since="last"))
    assert values(open_run(tmp_path / "runs", run_id="2"), "SELECT count(*), count(image_id) FROM images") == [(0, 0)]
    assert values(open_run(tmp_path / "runs", all_runs=True), "SELECT run_id, image_id FROM images") == [("1", "a.png")]


# --- what the views hold


def test_the_views_are_the_files(queried):
    folder = the_run(str(queried / "boxes"))
    rows = rows_of(folder)
    run = open_run(queried / "boxes")
    assert run.sql("SELECT * EXCLUDE (run_id) FROM images").to_pylist() == rows.to_pylist()
    boxes = [box for row in rows.to_pylist() for box in row["detections"]]
    assert run.sql("SELECT * EXCLUDE (run_id, image_id) FROM boxes").to_pylist() == boxes
    report = pq.read_table(f"{folder}/detection_report/detection_report.parquet")
    assert run.sql("SELECT * EXCLUDE (run_id) FROM detection_report").to_pylist() == report.to_pylist()


def test_the_classes_of_masks_are_counted_by_their_pixels(queried):
    run = open_run(queried / "masks")
    counted = run.sql("SELECT image_id, class, px, share, tp, gt, pred, iou FROM classes").to_pylist()
    by_image = {row["image_id"]: row for row in rows_of(str(queried / "masks" / NIGHT)).to_pylist()}
    assert {row["image_id"] for row in counted} == {k for k, row in by_image.items() if row["status"] == "ok"}
    for row in counted:
        image = by_image[row["image_id"]]
        k = ["sky", "grass", "road", "house", "tree", "car"].index(row["class"])
        assert row["px"] == image[f"px_{row['class']}"] == (decode_mask(image["mask"]["bytes"]) == k).sum()
        assert row["share"] == row["px"] / (image["width"] * image["height"])
        assert (row["tp"], row["gt"], row["pred"]) == (image["tp"][k], image["gt"][k], image["pred"][k])
        union = row["gt"] + row["pred"] - row["tp"]
        assert row["iou"] == (row["tp"] / union if union else None)


def test_newer_rows_supersede_older_ones_of_the_same_image(queried):
    """The nights share the names of eight images."""
    both = open_run(queried / "masks", all_runs=True)
    every = open_run(queried / "masks", all_runs=True, superseded=True)
    counts = "SELECT count(*), count(DISTINCT image_id) FROM images"
    assert values(every, counts) == [(38, 30)]
    assert values(both, counts) == [(30, 30)]
    shared = "SELECT DISTINCT run_id FROM images WHERE image_id = 'scene_00003.png'"
    assert values(both, shared) == [("2026-11-26",)]
    assert len(values(every, shared)) == 2
    assert values(both, "SELECT count(*) FROM classes") == [((30 - 5) * 6,)]
    assert values(both, "SELECT run_id, job, errors FROM runs") == [
        ("2026-11-25", "segment", 0),
        ("2026-11-26", "segment", 5),
    ]
    # the first night has no CRF
    assert values(both, "SELECT run_id, count(crf_changed_px) FROM images GROUP BY ALL ORDER BY ALL") == [
        ("2026-11-25", 0),
        ("2026-11-26", 9),
    ]


def test_runs_of_other_jobs_in_the_folder_are_left_out(queried, tmp_path):
    shutil.copytree(queried / "masks" / "run_id=2026-11-25", tmp_path / "run_id=2026-11-25")
    folder = the_run(str(queried / "boxes"))
    shutil.copytree(folder, tmp_path / Path(folder).name)
    assert values(open_run(tmp_path, all_runs=True), "SELECT job FROM runs") == [("detect",)]


@pytest.mark.parametrize("folder", ["masks", "boxes", "found"])
def test_all_views_and_columns_are_listed_with_descriptions_and_examples_that_run(queried, folder, capsys):
    run = open_run(queried / folder)
    columns = run.columns()
    assert columns.keys() - {"boxes"} >= {"images", "classes", "errors", "timings", "runs"}
    assert columns.keys() <= VIEWS.keys()
    for view, names in columns.items():
        for column in names:
            assert describe_column(view, column.name), (view, column)
    query.main([str(queried / folder)])
    text = capsys.readouterr().out
    assert text == format_overview(run, place=str(queried / folder)) + "\n"
    examples = [line.split('"')[1] for line in text.splitlines() if line.startswith("  segpipe query")]
    assert len(examples) == 3
    for example in examples[:2]:
        assert run.sql(example).num_rows


def test_masks_come_as_arrays(queried):
    (row,) = open_run(queried / "masks").rows("SELECT mask, uri, px_sky FROM images WHERE image_id = 'scene_00001.jpg'")
    assert row["mask"].shape == (160, 128)
    assert (row["mask"] == 0).sum() == row["px_sky"]
    (failed,) = open_run(queried / "masks").rows("SELECT mask FROM images WHERE image_id = 'broken_empty.jpg'")
    assert failed == {"mask": None}
    heatmap = next(open_run(queried / "found").rows("SELECT heatmap FROM classes LIMIT 1"))["heatmap"]
    assert heatmap.ndim == 2


# --- nothing else


@pytest.mark.parametrize(
    "statement",
    [
        "FROM read_text('/etc/hostname')",
        "FROM read_csv('{other}')",
        "FROM '{other}'",
        "FROM glob('{folder}/*')",
        "COPY images TO '{folder}/copy.csv'",
        "COPY images TO '{file}'",
        "EXPLAIN ANALYZE COPY images TO '{folder}/copy.csv'",
        "CREATE TABLE t AS FROM images",
        "DROP VIEW images",
        "INSERT INTO images SELECT 1",
        "SET enable_external_access = true",
        "ATTACH '{folder}/x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT 1; SELECT 2",
        "-- nothing",
        "",
        "FROM secret",
    ],
)
def test_queries_read_nothing_else_and_write_nothing(queried, tmp_path, statement):
    secret = pa.table({"a": ["unseen"]})
    other, file = tmp_path / "other.csv", next((queried / "masks" / NIGHT / "images").iterdir())
    other.write_text("unseen\n")
    before = file.read_bytes()
    run = open_run(queried / "masks")
    with pytest.raises(UserError) as error:
        run.sql(statement.format(other=other, folder=tmp_path, file=file))
    assert "unseen" not in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"]
    assert file.read_bytes() == before
    assert secret.num_rows == 1
    assert run.sql("FROM images").num_rows == 14


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "SELECT pix FROM images",
            'Binder Error: Referenced column "pix" not found in FROM clause! Candidate bindings',
        ),
        ("SELECT FROM images", "Parser Error: "),
        ("FROM image", "Catalog Error: Table with name image does not exist! Did you mean"),
        ("SELECT CAST(image_id AS INT) FROM images", "Conversion Error: Could not convert string"),
        ("DELETE FROM images", "a query is one SELECT statement: runs are read only"),
    ],
)
def test_what_is_wrong_with_a_query_is_one_line(queried, statement, message):
    with pytest.raises(UserError) as error:
        open_run(queried / "masks").sql(statement)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "LINE 1" not in str(error.value)


def test_statements_that_only_read_are_accepted(queried):
    run = open_run(queried / "masks")
    for statement in ("DESCRIBE images", "SUMMARIZE timings", "EXPLAIN FROM images", "SHOW TABLES", "VALUES (1)"):
        assert run.sql(statement).num_rows
    pivoted = run.sql("PIVOT classes ON class USING sum(px) GROUP BY image_id;")
    assert set(pivoted.column_names) == {"image_id", "sky", "grass", "road", "house", "tree", "car"}
    assert pivoted.num_rows == 9


@pytest.mark.parametrize("name", ["it's", "a [b] {c} *", 'q"q', "ä b"])
def test_folders_of_any_name(queried, tmp_path, name):
    folder = tmp_path / name / NIGHT
    shutil.copytree(queried / "masks" / NIGHT, folder)
    (tmp_path / "other").mkdir()
    run = open_run(tmp_path / name)
    assert values(run, "SELECT run_id, count(mask) FROM images GROUP BY ALL") == [("2026-11-26", 9)]
    assert values(run, "SELECT count(*) FROM class_report") == [(12,)]


def test_a_query_needs_neither_ray_nor_pytorch(queried):
    code = "import json, sys; from pipeline import open_run; "
    code += f"print(open_run({str(queried / 'masks')!r}).sql('FROM classes').num_rows); "
    code += "print(json.dumps(sorted({'torch', 'ray', 'numba', 'scipy', 'matplotlib'} & sys.modules.keys())))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    assert result.stdout == "54\n[]\n"


def test_names_of_runs_and_folders_above_them_add_no_columns(queried, tmp_path):
    names = ("2026", "a+b", "1.0-x")
    for name in names:
        shutil.copytree(queried / "masks" / NIGHT, tmp_path / "date=1" / f"run_id={name}")
    run = open_run(tmp_path / "date=1", all_runs=True, superseded=True)
    assert values(run, "SELECT run_id, count(*) FROM images GROUP BY ALL ORDER BY ALL") == [
        (name, 14) for name in sorted(names)
    ]
    assert "date" not in [column.name for column in run.columns()["images"]]
    assert values(run, "SELECT DISTINCT run_id FROM class_report ORDER BY ALL") == [(name,) for name in sorted(names)]
    assert values(run, "SELECT run_id FROM runs ORDER BY ALL") == [(name,) for name in sorted(names)]


# --- other stores


@pytest.fixture
def on_s3(queried, s3) -> str:
    url = f"{s3}/query"
    for path in (queried / "masks").rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{url}/{path.relative_to(queried / 'masks')}", path.read_bytes())
    return url


def test_s3_gives_the_same_answers(queried, on_s3):
    local, remote = (open_run(place, all_runs=True) for place in (queried / "masks", on_s3))
    for sql in (
        "SELECT * EXCLUDE (uri) FROM images ORDER BY image_id",
        "SELECT class, avg(share), avg(iou) FROM classes GROUP BY class ORDER BY class",
        "FROM class_report ORDER BY ALL",
        "FROM errors ORDER BY image_id",
    ):
        assert local.sql(sql).equals(remote.sql(sql))
    with pytest.raises(UserError, match="Permission Error"):
        remote.sql("FROM read_text('/etc/hostname')")


def test_a_query_without_masks_reads_no_masks(queried, tmp_path, s3, monkeypatch):
    """The bytes that S3 sends for a run whose masks have a megabyte each."""
    import s3fs.core

    source = rows_of(str(queried / "masks" / NIGHT))
    noise = np.random.default_rng(0)
    masks = [None if m is None else m | {"bytes": noise.bytes(2**20)} for m in source["mask"].to_pylist()]
    index = source.schema.get_field_index("mask")
    table = source.set_column(index, source.schema.field("mask"), pa.array(masks, source.schema.field("mask").type))
    local = tmp_path / "part.parquet"
    pq.write_table(table, local, row_group_size=4, compression="none")
    storage.upload(local, f"{s3}/big/{NIGHT}/images/part.parquet")
    manifest = json.loads((queried / "masks" / NIGHT / "manifest.json").read_text())
    manifest |= {"files": [{"path": "images/part.parquet", "rows": 14}], "tables": []}
    storage.write_bytes(f"{s3}/big/{NIGHT}/manifest.json", json.dumps(manifest).encode())

    sent = []
    fetch = s3fs.core.S3File._fetch_range

    def counted(self, start, end):
        data = fetch(self, start, end)
        sent.append(len(data))
        return data

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", counted)
    run = open_run(f"{s3}/big")
    assert values(run, "SELECT count(*), sum(px_sky) > 0 FROM images") == [(14, True)]
    assert run.sql("SELECT class, avg(iou) FROM classes GROUP BY class").num_rows == 6
    assert 0 < sum(sent) < 2**20
    sent.clear()
    assert values(run, "SELECT sum(octet_length(mask.bytes)) FROM images") == [(9 * 2**20,)]
    assert sum(sent) < 10 * 2**20


def test_duckdb_reads_local_files_itself(queried):
    (plan,) = open_run(queried / "masks").sql("EXPLAIN SELECT sum(px_sky) FROM images")["explain_value"].to_pylist()
    assert "READ_PARQUET" in plan.upper()
