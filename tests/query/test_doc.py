"""Every question and every block of Python in docs/queries.md is answered on runs of real models."""

import importlib.util
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commands import query
from tests.support.jobs import REPO

TEXT = (REPO / "docs/queries.md").read_text()
SECTIONS = dict(re.findall(r"^### (.+)\n((?:(?!^#).*\n)*)", TEXT, re.MULTILINE))
Rows = list[dict[str, Any]]


def answers(question: str, capsys: pytest.CaptureFixture) -> list[Rows]:
    """The rows that the commands below a question print."""
    found = []
    for command in re.findall(r"^```sh\n(.+?)^```", SECTIONS[question], re.MULTILINE | re.DOTALL):
        program, name, *arguments = shlex.split(command)
        assert (program, name) == ("segpipe", "query")
        if "--output" in arguments:
            query.main(arguments)
            found.append([{"lines": Path(arguments[-1]).read_text().splitlines()}])
        else:
            query.main([*arguments, "--format", "json"])
            found.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    return found


def falls(rows: Rows, name: str) -> bool:
    """Whether a column never rises; nulls are left out."""
    values = [row[name] for row in rows if row[name] is not None]
    return bool(rows) and values == sorted(values, reverse=True)


NAMES = {"sky", "grass", "road", "house", "tree", "car"}
CHECKS: dict[str, Callable[[Rows], bool]] = {
    "What should be labelled next?": lambda rows: len(rows) == 9 and falls(rows, "mean_entropy"),
    "Which pictures of a class are the worst?": lambda rows: falls(rows[::-1], "iou") and rows[0]["iou"] < 0.9,
    "Which images are more than 10% tree?": lambda rows: falls(rows, "share") and rows[-1]["share"] > 0.1,
    "How often does each class occur, and how much of the pictures does it cover?": lambda rows: (
        {row["class"] for row in rows} == NAMES and abs(sum(row["covers"] for row in rows) - 1) < 1e-9
    ),
    "Which classes occur together?": lambda rows: all(row["first"] < row["second"] for row in rows) and len(rows) > 2,
    "Has anything drifted between two nights?": lambda rows: (
        {row["class"] for row in rows} == NAMES
        and abs(sum(row["change"] for row in rows)) < 1e-9
        and any(row["standard_errors"] for row in rows)
    ),
    "Which images were slow?": lambda rows: len(rows) == 10 and rows[0]["t_infer_ms"] > 0,
    "Does the IoU depend on the size of the image?": lambda rows: (
        {row["size"] for row in rows} <= {"small", "large"} and all(0 <= row["iou"] <= 1 for row in rows) and bool(rows)
    ),
    "Does the CRF help?": lambda rows: any(row["gain"] for row in rows) and {row["class"] for row in rows} <= NAMES,
    "Which classes are taken for which?": lambda rows: falls(rows, "pixels") and any(r["share"] > 0.2 for r in rows),
    "What failed, and why?": lambda rows: sum(row["images"] for row in rows) == 5 and falls(rows, "images"),
    "Which images are copies of others?": lambda rows: (
        [row["images"] for row in rows] == [["copy.jpg", "scene_00000.jpg"]]
    ),
    "What do all nights hold together?": lambda rows: (
        [(row["run_id"], row["errors"]) for row in rows] == [("2026-11-25", 0), ("2026-11-26", 5), (None, 5)]
    ),
    "How many objects of each class were found?": lambda rows: falls(rows, "boxes") and rows[0]["score"] > 0.5,
    "Which images hold more than one of a class?": lambda rows: falls(rows, "boxes") and rows[-1]["boxes"] > 1,
    "Which confident detections are wrong?": lambda rows: falls(rows, "score") and rows[0]["xmin"] < rows[0]["xmax"],
    "Which classes were found, and how large are they?": lambda rows: (
        falls(rows, "boxes") and all(0 < row["share"] <= 1 for row in rows)
    ),
}


def test_there_are_fifteen_questions_and_each_is_checked() -> None:
    assert len(SECTIONS) >= 15
    assert SECTIONS.keys() == CHECKS.keys() | {"Where does the time go?"}


@pytest.mark.parametrize("question", CHECKS)
def test_a_question(
    question: str, queried: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(queried)
    (rows,) = answers(question, capsys)
    assert CHECKS[question](rows), rows


def test_where_the_time_goes(queried: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(queried)
    (csv,), (percentiles,) = answers("Where does the time go?", capsys)
    assert csv["lines"][0] == "stage,ms"
    assert {line.split(",")[0] for line in csv["lines"][1:]} == {"t_fetch_ms", "t_decode_ms", "t_infer_ms", "t_crf_ms"}
    assert percentiles["infer"] == sorted(percentiles["infer"])
    assert percentiles["infer"][0] > 0


BLOCKS = {
    re.findall(r"^(?:from|import) (\w+)", block, re.MULTILINE)[0]: block
    for block in re.findall(r"^```python\n(.+?)^```", TEXT, re.MULTILINE | re.DOTALL)
}


@pytest.fixture
def run_block(queried: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Run the block of Python that imports a package, and return its variables."""
    monkeypatch.chdir(queried)
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path, raising=False)

    def run(package: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        exec(BLOCKS[package], names)
        return names

    return run


def test_the_blocks_of_python() -> None:
    assert BLOCKS.keys() == {"pipeline", "pandas", "polars", "pyarrow", "datasets", "pyspark"}
    for package in BLOCKS.keys() - {"pyspark"}:
        assert importlib.util.find_spec(package), package


def test_masks_as_arrays(run_block, capsys) -> None:
    names = run_block("pipeline")
    assert set(names["shares"]["class"]) == NAMES
    assert (names["labels"].dtype, names["labels"].ndim) == (np.int32, 2)
    road = names["row"]["image_id"]
    assert names["run"].sql(f"SELECT px_road FROM images WHERE image_id = '{road}'").to_pylist() == [
        {"px_road": (names["labels"] == 2).sum()}
    ]


def test_pandas(run_block) -> None:
    names = run_block("pandas")
    assert len(names["images"]) == 14
    assert names["road"].notna().sum() == 9


def test_polars_reads_all_runs(run_block) -> None:
    largest = run_block("polars")["largest"]
    assert largest.shape == (10, 3)
    assert set(largest["run_id"]) <= {"2026-11-25", "2026-11-26"}
    assert largest["road"].is_sorted(descending=True)
    assert largest["road"][0] > 0


def test_pyarrow(run_block) -> None:
    assert run_block("pyarrow")["failed"].num_rows == 5


def test_hugging_face_shows_masks_as_pictures(run_block) -> None:
    names = run_block("datasets")
    picture = names["picture"]
    assert picture.mode == "P"
    assert picture.size == (names["data"][0]["width"], names["data"][0]["height"])
    row = next(names["data"].iter(1))
    road = np.count_nonzero(np.asarray(row["mask"][0]) == 2)
    assert road == row["px_road"][0]


# --- Spark


def leaves(kind: pa.DataType) -> Iterator[pa.DataType]:
    """Yield the types of which a type consists."""
    if kind.num_fields == 0:
        yield kind
    for i in range(kind.num_fields):
        yield from leaves(kind.field(i).type)


def struct_names(kind: pa.DataType) -> Iterator[list[str]]:
    """Yield the names of the fields of each struct in a type."""
    if pa.types.is_struct(kind):
        yield [field.name for field in kind]
    for i in range(kind.num_fields):
        yield from struct_names(kind.field(i).type)


@pytest.mark.parametrize("folder", ["masks", "boxes", "found"])
def test_the_files_keep_to_the_rules_of_spark(folder: str, queried: Path) -> None:
    """https://spark.apache.org/docs/latest/sql-data-sources-parquet.html, and its list of types."""
    files = [path for path in (queried / folder).rglob("*.parquet") if "/_" not in str(path.relative_to(queried))]
    assert any(path.parent.name == "images" for path in files)
    for path in files:
        assert path.relative_to(queried / folder).parts[0].startswith("run_id=")
        stored = pq.read_schema(path)
        for field in stored:
            for kind in leaves(field.type):
                assert kind in READABLE, (path, field)
        for names in [stored.names, *(names for field in stored for names in struct_names(field.type))]:
            assert len({name.lower() for name in names}) == len(names)
        assert "run_id" not in stored.names  # the name of the folder would take its place
        assert not [name for name in stored.names if set(name) & set(" ,;{}()\n\t=")]
        # Spark takes the physical types of Parquet, of which a list is a group of three levels.
        physical = pq.ParquetFile(path).schema
        assert {physical.column(i).physical_type for i in range(len(physical))} <= PHYSICAL
        lists = [physical.column(i).path for i in range(len(physical)) if ".list." in physical.column(i).path]
        assert all(".list.element" in column for column in lists)


def test_what_spark_must_not_read_is_hidden_from_it(queried: Path) -> None:
    """It ignores names with `_` or `.` in front: the plan and the shards of unfinished runs."""
    parquet = (queried / "masks").rglob("*.parquet")
    folders = {path.relative_to(queried / "masks").parts[1] for path in parquet}
    assert folders == {"images", "class_report", "dataset_report", "confusion", "_run"}


READABLE = {
    pa.string(),
    pa.binary(),
    pa.bool_(),
    pa.float32(),
    pa.float64(),
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
}
PHYSICAL = {"BYTE_ARRAY", "BOOLEAN", "FLOAT", "DOUBLE", "INT32", "INT64"}
