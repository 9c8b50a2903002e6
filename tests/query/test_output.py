"""The forms of a result, and the options that choose them."""

import base64
import csv
import io
import json
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import cli
from pipeline.errors import UserError
from pipeline.query.config import QueryConfig
from pipeline.query.output import format_table, write_result

TABLE = pa.table(
    {
        "name": ["a", "b\x1b[31m\nc", None],
        "count": pa.array([1, 23456, None], pa.int64()),
        "share": [0.125, float("nan"), 1 / 3],
        "mask": pa.array([b"\x89PNG", b"", None], pa.binary()),
        "picture": [{"bytes": b"12345", "path": "a.png"}, None, None],
        "total": pa.array([10**20, 1, None], pa.decimal128(38, 0)),
        "time": pa.array([datetime(2026, 11, 26), None, None], pa.timestamp("s")),
        "flags": [[True], [], None],
    }
)


def written(capsys, form, limit=None):
    write_result(TABLE.schema, TABLE.to_batches(max_chunksize=2), form=form, limit=limit, output=None)
    return capsys.readouterr().out


def test_a_table_is_aligned_and_shows_sizes_in_place_of_bytes(capsys):
    lines = written(capsys, "table").splitlines()
    assert lines[0].split() == TABLE.column_names
    assert lines[2].startswith("a                 1     0.125  4 bytes  ")
    assert '{"bytes": "5 bytes", "path": "a.png"}' in lines[2]
    assert "100000000000000000000" in lines[2]
    assert r"b\x1b[31m\nc" in lines[3]
    assert lines[4].startswith("–                 –  0.333333  –  ")
    assert lines[5] == "(3 rows)"
    end = lines[0].index("count") + len("count")
    assert {line[end - 1] for line in lines[2:5]} == {"1", "6", "–"}
    assert format_table(TABLE.schema, []).endswith("\n(0 rows)\n")


def test_a_long_cell_is_cut():
    table = format_table(pa.schema([("a", pa.string())]), [["x" * 100]])
    assert table.splitlines()[2] == "x" * 59 + "…"


def test_limits(capsys):
    assert written(capsys, "table", limit=2).splitlines()[-2:] == [
        "(2 rows)",
        "there are more rows; --limit 0 shows all",
    ]
    assert written(capsys, "table", limit=3).splitlines()[-1] == "(3 rows)"
    assert len(written(capsys, "csv", limit=1).splitlines()) == 2


def test_csv_and_json_hold_all(capsys):
    rows = list(csv.DictReader(io.StringIO(written(capsys, "csv"))))
    assert rows[0] == {
        "name": "a",
        "count": "1",
        "share": "0.125",
        "mask": base64.b64encode(b"\x89PNG").decode(),
        "picture": '{"bytes": "MTIzNDU=", "path": "a.png"}',
        "total": "100000000000000000000",
        "time": "2026-11-26T00:00:00",
        "flags": "[true]",
    }
    assert rows[1]["name"] == TABLE["name"][1].as_py()
    assert rows[2] == dict.fromkeys(TABLE.column_names, "") | {"share": str(1 / 3)}
    lines = [json.loads(line) for line in written(capsys, "json").splitlines()]
    assert lines[0]["picture"] == {"bytes": "MTIzNDU=", "path": "a.png"}
    assert lines[0]["total"] == 10**20
    assert lines[1]["share"] is None
    assert lines[2] == dict.fromkeys(TABLE.column_names) | {"share": 1 / 3}


@pytest.mark.parametrize("url", ["{}/out/result.parquet", "memory://results/result.parquet"])
def test_parquet_is_written_to_any_store(tmp_path, url):
    from pipeline import storage

    url = url.format(tmp_path)
    write_result(TABLE.schema, TABLE.to_batches(), form="parquet", limit=2, output=url)
    stored = pq.read_table(io.BytesIO(storage.read_bytes(url)))
    assert stored.drop_columns("share").to_pylist() == TABLE.slice(0, 2).drop_columns("share").to_pylist()


@pytest.mark.parametrize(
    ("options", "form", "rows"),
    [
        ([], "table", 100),
        (["--output", "x.csv"], "csv", None),
        (["--output", "s3://b/x.parquet"], "parquet", None),
        (["--output", "x.jsonl", "--limit", "5"], "json", 5),
        (["--output", "x.txt"], "table", 100),
        (["--limit", "0"], "table", None),
        (["--output", "x.csv", "--format", "json"], "json", None),
    ],
)
def test_the_form_follows_from_the_options(options, form, rows):
    config = cli.parse(QueryConfig, ["runs", *options, "FROM images"], description="")
    assert (config.sql, config.result_format, config.most_rows) == ("FROM images", form, rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "parquet"], "--format parquet needs --output"),
        (["--superseded"], "--superseded needs --all-runs"),
        (["--run-id", "x", "--all-runs"], "--run-id and --all-runs exclude each other"),
        (["FROM images"], "unexpected argument FROM images"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(UserError, match=message):
        cli.parse(QueryConfig, ["runs", "FROM images", *options], description="")
