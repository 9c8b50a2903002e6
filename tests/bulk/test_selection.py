"""What --since and --retry-errors leave of an input, against dictionaries."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bulk import plan, selection
from pipeline.bulk.config import BulkConfig
from pipeline.bulk.earlier import REMOVED, known_images
from pipeline.bulk.listing import IMAGE_FIELDS, NO_ROW, InputImage
from pipeline.bulk.plan import MANIFEST, make_plan, store_plan
from pipeline.bulk.schema import results_schema
from pipeline.bulk.selection import Selection
from pipeline.bulk.table_stream import split
from pipeline.errors import UserError

IDS = st.text("ab/-.é", min_size=1, max_size=3)
VERSIONS = st.tuples(st.integers(0, 1), st.sampled_from(["", "tag 1", "tag 2"]), st.sampled_from(["noon", "night"]))
COLLECTIONS = st.dictionaries(IDS, VERSIONS, max_size=25)


def listing(images: dict[str, tuple[int, str, str]], *, rows: int) -> Iterator[pa.Table]:
    """What `list_input` returns for some images, in tables of some rows."""
    found = [InputImage(i, f"/{i}", NO_ROW, *version)._asdict() for i, version in sorted(images.items())]
    return split([pa.Table.from_pylist(found, schema=pa.schema(IMAGE_FIELDS))], rows)


def nothing_known(ids: Iterable[list[str]]) -> Iterator[list[str | None]]:
    return ([None] * len(some) for some in ids)


def select(
    images: dict[str, tuple[int, str, str]], *, rows: int, run: str | None = None, **options: str
) -> tuple[list[str], int | None]:
    """The ids that are selected, and the number of images that are gone."""
    with patch.object(selection, "list_input", lambda *_, **__: listing(images, rows=rows)):
        found = Selection(BulkConfig(model="/m", images="/i", output="/o", **options), run=run)
        ids = [i for table in found for i in table["image_id"].to_pylist()]
    return ids, found.removed


@settings(max_examples=60, deadline=None)
@given(COLLECTIONS, COLLECTIONS, st.booleans(), st.integers(1, 5), st.integers(1, 5))
def test_since_selects_what_is_new_or_has_changed(before, now, is_similar, rows, group):
    now = before | now if is_similar else now
    with tempfile.TemporaryDirectory() as run, patch.object(plan, "ROW_GROUP", group):
        config = BulkConfig(model="/m", images="/i", output="/o")
        store_plan(run, make_plan(config, listing(before, rows=3), nothing_known), {})
        Path(run, MANIFEST).write_text("{}")
        ids, removed = select(now, rows=rows, since=run)
        with tempfile.TemporaryDirectory() as next_run:
            assert select(now, rows=rows, run=next_run, since=run) == (ids, removed)
            listed = [i for table in known_images(next_run) for i in table["image_id"].to_pylist()]
            gone = pa.parquet.read_table(f"{next_run}/{REMOVED}")["image_id"].to_pylist()

    def version(images: dict[str, tuple[int, str, str]], image_id: str) -> tuple[int, str] | None:
        size, etag, mtime = images.get(image_id, (-1, "", ""))
        return (size, etag or mtime) if image_id in images else None

    assert ids == sorted(i for i in now if version(now, i) != version(before, i))
    assert listed == sorted(now)
    assert gone == sorted(before.keys() - now.keys())
    assert removed == len(gone)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(IDS, st.booleans(), max_size=25), st.sets(IDS, max_size=20), st.integers(1, 5))
def test_retrying_selects_what_failed_and_is_still_there(failed, now, rows):
    with tempfile.TemporaryDirectory() as run:
        schema = results_schema([], pictures=[], metadata={})
        rows_before = [{"image_id": i, "status": "error" if failed[i] else "ok"} for i in sorted(failed)]
        table = pa.Table.from_pylist(rows_before, schema=pa.schema([schema.field("image_id"), schema.field("status")]))
        files = []
        for i, part in enumerate(split([table], 4)):
            pa.parquet.write_table(part, f"{run}/{i}.parquet")
            files.append({"path": f"{i}.parquet"})
        Path(run, MANIFEST).write_text(json.dumps({"files": files}))
        ids, removed = select(dict.fromkeys(now, (1, "", "")), rows=rows, retry_errors=run)
    assert ids == sorted(i for i in now if failed.get(i))
    assert removed is None


@pytest.mark.parametrize("source", ["images", "images/list.txt"])
def test_since_recognises_images_whose_ids_are_not_their_names(tmp_path, source):
    """Names that are not UTF-8 in a folder, and paths of a list that lead upwards or are absolute."""
    (tmp_path / "images").mkdir()
    names = [b"a.jpg", b"b\xff.jpg", b"c\xe9.jpg"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/images/" + name)).write_bytes(b"1")
    (tmp_path / "images" / "list.txt").write_text(f"a.jpg\n../up/b.jpg\n{tmp_path}/c.jpg\n")
    run = str(tmp_path / "run")
    config = BulkConfig(model="/m", images=str(tmp_path / source), output="/o")
    store_plan(run, make_plan(config, Selection(config), nothing_known), {})
    Path(run, MANIFEST).write_text("{}")
    again = Selection(config.model_copy(update={"since": run}))
    assert [table.num_rows for table in again if table.num_rows] == []
    assert again.removed == 0
    if source == "images":
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/images/b\xff.jpg")).write_bytes(b"changed")
        (changed,) = [table for table in Selection(config.model_copy(update={"since": run})) if table.num_rows]
        assert [i.partition("#id=")[0] for i in changed["image_id"].to_pylist()] == ["b\\xff"]


def test_without_an_earlier_run_all_images_are_selected():
    images = dict.fromkeys("abc", (1, "", ""))
    assert select(images, rows=2) == (["a", "b", "c"], None)


@pytest.mark.parametrize("option", ["since", "retry_errors"])
def test_a_run_that_is_not_finished_is_refused(tmp_path, option):
    flag = f"--{option.replace('_', '-')}"
    with pytest.raises(UserError, match=rf"^{flag}: .* is not a run; name the folder .*; 'last' stands for the newest"):
        Selection(BulkConfig(model="/m", images=str(tmp_path), output="/o", **{option: str(tmp_path)}))
