"""Streams of tables against lists."""

from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bulk import table_stream
from pipeline.bulk.table_stream import TableStream, sort_rows, split

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def tables(values: list, sizes: list[int]) -> list[pa.Table]:
    """The values in a column `id`, cut into tables of some sizes."""
    found = []
    for size in sizes:
        found.append(pa.table({"id": pa.array(values[:size], pa.string())}))
        values = values[size:]
    return [*found, pa.table({"id": pa.array(values, pa.string())})]


def values(found: list[pa.Table]) -> list[str]:
    return [value for table in found for value in table["id"].to_pylist()]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(TEXTS, max_size=60),
    st.lists(st.integers(0, 20), max_size=5),
    st.integers(1, 12),
    st.integers(1, 5),
    st.booleans(),
)
def test_rows_are_sorted_as_python_sorts_texts(texts, sizes, run, batch, in_order):
    texts = sorted(texts) if in_order else texts
    with patch.multiple(table_stream, RUN_ROWS=run, BATCH_ROWS=batch):
        found = list(sort_rows(tables(texts, sizes), "id"))
    assert values(found) == sorted(texts)
    assert all(table.num_rows for table in found)


def test_rows_in_order_make_one_run(tmp_path, monkeypatch):
    monkeypatch.setattr(table_stream, "RUN_ROWS", 3)
    runs = table_stream._store_runs(tables([f"{i:02d}" for i in range(20)], [4, 0, 9]), "id", tmp_path)
    assert len(runs) == 1
    mixed = table_stream._store_runs(tables(list("defabcghi"), [2]), "id", tmp_path)
    assert len(mixed) == 2


def test_temporary_files_are_removed_even_if_the_rows_are_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = sort_rows(tables(list("bca"), []), "id")
    next(rows)
    assert list(tmp_path.iterdir())
    del rows
    assert not list(tmp_path.iterdir())


@given(st.lists(TEXTS, max_size=30), st.lists(st.integers(0, 9), max_size=5), st.integers(1, 9))
def test_split_keeps_the_rows(texts, sizes, rows):
    found = list(split(tables(texts, sizes), rows))
    assert values(found) == texts
    assert [len(table) for table in found[:-1]] == [rows] * (len(found) - 1)


@given(st.lists(TEXTS, max_size=30), st.lists(st.integers(0, 9), max_size=5), st.lists(TEXTS, max_size=6))
def test_rows_up_to_keys(texts, sizes, keys):
    texts = sorted(texts)
    stream = TableStream(tables(texts, sizes), key="id")
    taken: list[str] = []
    for key in sorted(keys):
        taken += values(stream.until(key))
        assert taken == [text for text in texts if text <= key]
    assert values(stream.take(100)) == texts[len(taken) :]
    assert stream.last is None


def test_numbers_of_rows_and_keys_can_be_mixed():
    stream = TableStream(tables(list("abbcde"), [2, 0, 2]), key="id")
    assert values(stream.take(1)) == ["a"]
    assert values(stream.until("b")) == ["b", "b"]
    assert values(stream.take(2)) == ["c", "d"]
    assert stream.last == "e"


@pytest.mark.parametrize("sizes", [[], [0, 0]])
def test_no_rows(sizes):
    assert list(sort_rows(tables([], sizes), "id")) == []
    assert list(split(tables([], sizes), 3)) == []
    assert TableStream(tables([], sizes), key="id").last is None
