"""An image's bytes are whole and the plan's; what keeps them from arriving is the store's fault."""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import get_s3, retry, storage
from pipeline.bulk.fetch import Fetching, Wanted, fetch_images
from pipeline.bulk.listing import list_input
from pipeline.bulk.planned_image import FileChanged, FileGone, Source, read_planned, read_table
from pipeline.errors import ImageFault
from pipeline.faults import StoreFault
from pipeline.get_s3 import Sent


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(retry, "_failing_since", {})
    retry.be_patient(60)


def planned(folder: object) -> tuple[dict, Source]:
    """The only image of a folder as a row of the plan, and its source."""
    (row,) = [row | {"truth": None} for table in list_input(str(folder)) for row in table.to_pylist()]
    return row, Source(str(folder), time.time())


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (8, 6), (9, 0, 0)).save(folder / "a.png")
    return folder


@pytest.fixture
def remote(s3: str) -> str:
    folder = f"{s3}/{uuid4().hex}"
    storage.write_bytes(f"{folder}/a.png", b"0123456789")
    return folder


def test_a_local_file_is_read_if_it_is_the_plans(local):
    row, source = planned(local)
    data = (local / "a.png").read_bytes()
    assert read_planned(row, source) == data
    os.utime(local / "a.png", (1e9, 1e9))  # the copy of another node: another time, but before the plan
    assert read_planned(row, source) == data


def test_a_local_file_that_has_changed_is_told_apart(local):
    row, source = planned(local)
    data = (local / "a.png").read_bytes()
    os.utime(local / "a.png", (time.time() + 5, time.time() + 5))
    with pytest.raises(FileChanged, match=r"changed since the plan of this run was made; a run with --since"):
        read_planned(row, source)
    (local / "a.png").write_bytes(data + b"more")
    with pytest.raises(FileChanged, match=rf"\({len(data)} bytes then, {len(data) + 4} now\)"):
        read_planned(row, source)


def test_a_local_file_that_is_gone_is_told_apart_from_a_disk_that_is_gone(local):
    retry.be_patient(0.2)
    row, source = planned(local)
    (local / "b.png").touch()
    (local / "a.png").unlink()
    with pytest.raises(FileGone, match="removed after the plan"):
        read_planned(row, source)
    (local / "b.png").unlink()
    with pytest.raises(StoreFault, match="is its disk mounted"):
        read_planned(row, source)
    shutil.rmtree(local)
    with pytest.raises(StoreFault, match="is its disk mounted"):
        read_planned(row, source)


def test_a_dangling_link_does_not_exist(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere")
    row, source = planned(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_planned(row, source)


def test_an_object_that_has_changed_or_is_gone_is_told_apart(remote):
    row, source = planned(remote)
    assert read_planned(row, source) == b"0123456789"
    storage.write_bytes(f"{remote}/a.png", b"9876543210")
    with pytest.raises(FileChanged):
        read_planned(row, source)
    storage.write_bytes(f"{remote}/a.png", b"longer than before")
    with pytest.raises(FileChanged, match="10 bytes then, 18 now"):
        read_planned(row, source)
    storage.remove(f"{remote}/a.png")
    with pytest.raises(FileGone):
        read_planned(row, source)


def answers(monkeypatch: pytest.MonkeyPatch, *results: Sent | None) -> None:
    """Let the store give these answers, and then, or in place of None, its own."""
    waiting, get = list(results), get_s3.get
    monkeypatch.setattr("pipeline.get_s3.get", lambda *a: (waiting.pop(0) if waiting else None) or get(*a))


def test_a_body_that_is_cut_is_asked_for_again(remote, monkeypatch):
    row, source = planned(remote)
    answers(monkeypatch, Sent(b"01234", row["etag"]), Sent(b"0123", ""))
    assert read_planned(row, source) == b"0123456789"


def test_a_store_that_always_sends_too_little_is_at_fault(remote, monkeypatch):
    retry.be_patient(0.2)
    row, source = planned(remote)
    answers(monkeypatch, *[Sent(b"01234", row["etag"])] * 1000)
    with pytest.raises(StoreFault, match=r"a\.png: OSError: the store sent 5 of 10 bytes"):
        read_planned(row, source)


def test_a_store_whose_objects_have_other_tags_than_its_listing_is_believed(remote, monkeypatch):
    row, source = planned(remote)
    answers(monkeypatch, Sent(b"0123456789", "another"))
    assert read_planned(row, source) == b"0123456789"


def test_a_bucket_that_is_gone_is_no_missing_file(remote):
    retry.be_patient(0.2)
    row, source = planned(remote)
    with pytest.raises(StoreFault):
        read_planned(row | {"uri": "s3://no-such-bucket-here/a.png"}, source)


def test_a_damaged_table_is_the_images_fault(tmp_path):
    table = pa.table({"image": [np.random.default_rng(i).bytes(5000) for i in range(4)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=1, compression="zstd")
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[4:60] = bytes(56)  # the header of the first page
    (tmp_path / "t.parquet").write_bytes(data)
    with pytest.raises(ImageFault, match="the table is damaged"):
        read_table(str(tmp_path / "t.parquet"), [0])
    assert read_table(str(tmp_path / "t.parquet"), [3])[3] == table["image"][3].as_py()


def fetch(row: dict, source: Source, *, give_up: bool = False) -> list:
    how = Fetching(source, lambda pixels: pixels, keep_pixels=False, max_pixels=1000, give_up=give_up)
    with ThreadPoolExecutor(2) as pool:
        return fetch_images([Wanted(row)], pool, how)


def test_bytes_that_cannot_be_decoded_are_fetched_again(s3, monkeypatch, local):
    """Only bytes that arrive twice are the image's own fault."""
    folder = f"{s3}/{uuid4().hex}"
    data = (local / "a.png").read_bytes()
    storage.write_bytes(f"{folder}/a.png", data)
    row, source = planned(folder)
    flipped = data[:30] + bytes([data[30] ^ 255]) + data[31:]
    answers(monkeypatch, Sent(flipped, row["etag"]))
    (fetched,) = fetch(row, source)
    assert fetched.failure is None
    assert (fetched.prepared == (9, 0, 0)).all()
    answers(monkeypatch, *[Sent(flipped, row["etag"])] * 2)
    (fetched,) = fetch(row, source)
    assert (fetched.failure.stage, fetched.failure.error_class) == ("decode", "ImageError")


def test_a_store_that_fails_gives_no_row_unless_the_owner_of_the_run_says_so(remote, monkeypatch):
    retry.be_patient(0.2)
    row, source = planned(remote)
    answers(monkeypatch, *[Sent(b"", row["etag"])] * 1000)
    with pytest.raises(StoreFault):
        fetch(row, source)
    (fetched,) = fetch(row, source, give_up=True)
    assert (fetched.failure.stage, fetched.failure.error_class) == ("fetch", "StoreFault")
