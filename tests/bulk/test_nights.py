"""Nights in a row with `--since last`: each plans what is new, a crash resumes its own run, nothing is done twice."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.bulk.earlier import REMOVED, find_earlier, read_earlier
from pipeline.bulk.kind import RunReport
from pipeline.bulk.lease import Lease, lease
from pipeline.bulk.plan import read_manifest
from pipeline.bulk.results import read_file
from pipeline.bulk.run import format_run
from pipeline.errors import UserError
from tests.support.nights import CARD, Killed, PlainRun, compute, config_of, draw, without_ray
from tests.support.runs import rows_of


def night(folder: Path, **options: object) -> list[str]:
    """Compute a run, and return the ids of its rows."""
    run = compute(config_of(folder, **options))
    assert run is not None
    return rows_of(run)["image_id"].to_pylist()


def finished_at(folder: Path, run_id: str, time: str) -> None:
    """Change the time at which a run was finished."""
    manifest = folder / "runs" / f"run_id={run_id}" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"finished": time}))


def kill_at(shard: int, last: int) -> None:
    if shard == last:
        raise Killed


@pytest.fixture
def nights(tmp_path, monkeypatch) -> Path:
    """A folder with two images, whose runs need no Ray."""
    without_ray(monkeypatch)
    draw(tmp_path / "images", "a.png", "b.png")
    return tmp_path


def test_each_night_does_what_is_new_since_all_nights_before(nights, capsys):
    assert night(nights, since="last", run_id="1") == ["a.png", "b.png"]
    assert "--since last: the output has no finished run" in capsys.readouterr().out
    finished_at(nights, "1", "2026-11-01T00:00:00+00:00")
    draw(nights / "images", "c.png")
    assert night(nights, since="last", run_id="2") == ["c.png"]
    assert f"new or changed since {nights}/runs/run_id=1" in capsys.readouterr().out
    finished_at(nights, "2", "2026-11-02T00:00:00+00:00")
    draw(nights / "images", "d.png")
    draw(nights / "images", "a.png", content=b"changed")
    (nights / "images" / "b.png").unlink()
    assert night(nights, since="last", run_id="3") == ["a.png", "d.png"]
    assert "new or changed since" in (text := capsys.readouterr().out)
    assert "1 images of the earlier run are no longer there" in text
    assert read_file(f"{nights}/runs/run_id=3", REMOVED)["image_id"].to_pylist() == ["b.png"]
    assert read_earlier(f"{nights}/runs/run_id=3") == (f"{nights}/runs/run_id=2", 1, True)
    finished_at(nights, "3", "2026-11-03T00:00:00+00:00")
    assert night(nights, since="last", run_id="4") == []
    assert read_earlier(f"{nights}/runs/run_id=4").removed == 0  # b.png was reported in the third night


def test_a_night_with_another_model_or_option_says_what_its_images_keep(nights, capsys, monkeypatch):
    night(nights, since="last", run_id="1")
    finished_at(nights, "1", "2026-11-01T00:00:00+00:00")
    night(nights, since="last", run_id="2", sharding={"max_images": 7})
    assert "other than in the earlier run" not in capsys.readouterr().out
    finished_at(nights, "2", "2026-11-02T00:00:00+00:00")
    monkeypatch.setattr(PlainRun, "card", CARD.model_copy(update={"weights_sha256": "another"}))
    assert night(nights, since="last", run_id="3", dtype="bfloat16") == []
    assert "other than in the earlier run: --model, --dtype. Images that" in capsys.readouterr().out


def test_a_crash_in_the_same_night_resumes_the_same_run_although_last_is_another_by_then(tmp_path, monkeypatch):
    draw(tmp_path / "images", *(f"{i}.png" for i in range(7)))
    without_ray(monkeypatch)
    assert len(night(tmp_path, run_id="1")) == 7
    finished_at(tmp_path, "1", "2026-11-01T00:00:00+00:00")
    draw(tmp_path / "images", *(f"new-{i}.png" for i in range(7)))

    without_ray(monkeypatch, stop=lambda shard: kill_at(shard, 2))
    with pytest.raises(Killed):
        night(tmp_path, since="last", run_id="2")
    assert not storage.exists(f"{tmp_path}/runs/run_id=2/manifest.json")
    computed = without_ray(monkeypatch)
    assert len(night(tmp_path, run_id="between")) == 14  # from now on it is the newest finished run
    computed.clear()
    assert night(tmp_path, since="last", run_id="2") == [f"new-{i}.png" for i in range(7)]
    assert computed == [2]
    assert read_earlier(f"{tmp_path}/runs/run_id=2").run == f"{tmp_path}/runs/run_id=1"


def test_a_crash_while_the_plan_is_made_leaves_no_trace_in_the_next_attempt(nights, monkeypatch):
    """The first attempt continues a run that is gone in the second."""
    night(nights, run_id="1")

    write_bytes = storage.write_bytes

    def fail_at_the_summary(url: str, data: bytes) -> None:
        if url.endswith("plan.json"):
            raise Killed
        write_bytes(url, data)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.storage.write_bytes", fail_at_the_summary)
        with pytest.raises(Killed):
            night(nights, since="last", run_id="2")
    assert read_earlier(f"{nights}/runs/run_id=2").run == f"{nights}/runs/run_id=1"
    (nights / "runs" / "run_id=1" / "manifest.json").unlink()
    assert night(nights, since="last", run_id="2") == ["a.png", "b.png"]
    assert read_earlier(f"{nights}/runs/run_id=2") == (None, None, False)
    assert night(nights, since="last", run_id="3") == []


def test_the_derived_name_of_a_run_is_another_each_night(nights, monkeypatch):
    """Without --run-id, a repeated command resumes an unfinished night and begins the next one after a finished one."""
    assert night(nights, since="last") == ["a.png", "b.png"]
    (first,) = nights.glob("runs/run_id=*")
    finished_at(nights, first.name.removeprefix("run_id="), "2026-11-01T00:00:00+00:00")
    draw(nights / "images", "c.png", "d.png", "e.png", "f.png")
    without_ray(monkeypatch, stop=lambda shard: kill_at(shard, 1))
    with pytest.raises(Killed):
        night(nights, since="last")
    computed = without_ray(monkeypatch)
    assert night(nights, since="last") == ["c.png", "d.png", "e.png", "f.png"]
    assert computed == [1]
    assert night(nights, since="last") == []
    assert len(list(nights.glob("runs/run_id=*/manifest.json"))) == 3


def test_last_is_the_newest_run_of_the_same_job_over_the_same_input(nights):
    draw(nights / "others", "a.png")
    for run_id, options in {"1": {}, "2": {}, "other": {"images": str(nights / "others")}, "open": {}}.items():
        night(nights, run_id=run_id, **options)
    finished_at(nights, "1", "2026-11-03T00:00:00+00:00")
    finished_at(nights, "2", "2026-11-02T00:00:00+00:00")
    (nights / "runs" / "run_id=open" / "manifest.json").unlink()
    assert find_earlier(config_of(nights, since="last")) == f"{nights}/runs/run_id=1"
    manifest = nights / "runs" / "run_id=1" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"job": "localize"}))
    assert find_earlier(config_of(nights, since="last")) == f"{nights}/runs/run_id=2"
    assert find_earlier(config_of(nights, since="last", images="/elsewhere")) is None
    assert find_earlier(config_of(nights, since="/a/run")) == "/a/run"
    assert find_earlier(config_of(nights)) is None


def test_retries_are_chained_and_do_not_count_as_nights(nights):
    draw(nights / "images", "broken-1.png", "broken-2.png")
    assert len(night(nights, run_id="1")) == 4
    (nights / "images" / "broken-1.png").rename(nights / "images" / "c.png")
    assert night(nights, retry_errors="last", run_id="retry-1") == ["broken-2.png"]
    finished_at(nights, "retry-1", "2126-11-01T00:00:00+00:00")
    assert find_earlier(config_of(nights, retry_errors="last")) == f"{nights}/runs/run_id=retry-1"
    assert find_earlier(config_of(nights, since="last")) == f"{nights}/runs/run_id=1"
    assert night(nights, since="last", run_id="2") == ["c.png"]
    with pytest.raises(UserError, match=r"--since: .*retry-1 was begun with --retry-errors and knows only the images"):
        night(nights, since=f"{nights}/runs/run_id=retry-1", run_id="3")


def test_there_must_be_a_run_to_retry(nights):
    with pytest.raises(UserError, match=r"--retry-errors last: .*/runs has no finished run of this job over .*/images"):
        night(nights, retry_errors="last", run_id="retry")


def test_a_dry_run_names_the_earlier_run_and_stores_nothing(nights, capsys):
    night(nights, run_id="1")
    draw(nights / "images", "c.png")
    assert compute(config_of(nights, since="last", run_id="2", dry_run=True)) is None
    assert (
        f": 1 images, 1 B in 1 shards of 1 B; the largest image is 1 B; new or changed since {nights}/runs/run_id=1"
        in (capsys.readouterr().out)
    )
    assert not (nights / "runs" / "run_id=2").exists()


def test_a_folder_named_last_is_given_by_its_path(nights):
    assert config_of(nights, since="./last").since == f"{Path.cwd()}/last"
    assert config_of(nights, since="last").since == "last"


def test_the_manifest_names_the_job(nights):
    night(nights, run_id="1")
    assert read_manifest(f"{nights}/runs/run_id=1")["job"] == "plain"


@pytest.mark.parametrize("finishes", [True, False])
def test_a_driver_that_waited_for_the_lease_goes_on_with_the_plan_that_it_finds(nights, monkeypatch, finishes):
    """The driver before it has made its plan meanwhile, and may have finished the run."""

    @contextmanager
    def waited(run: str) -> Iterator[Lease]:
        monkeypatch.setattr("pipeline.bulk.run.lease", lease)
        without_ray(monkeypatch, stop=lambda shard: None if finishes else kill_at(shard, 0))
        with suppress(Killed):
            compute(config_of(nights, run_id="1"))
        without_ray(monkeypatch)
        draw(nights / "images", "c.png")
        with lease(run) as held:
            yield held

    monkeypatch.setattr("pipeline.bulk.run.lease", waited)
    assert night(nights, run_id="1") == ["a.png", "b.png"]


def test_scores_are_printed_only_if_there_are_images(tmp_path, monkeypatch):
    """A night without news has tables of undefined scores."""
    without_ray(monkeypatch)
    report = RunReport({"scores": pa.table({"miou": pa.array([None], pa.float64())})})
    monkeypatch.setattr(PlainRun, "report", lambda *_: report)
    draw(tmp_path / "images", "a.png")
    first = compute(config_of(tmp_path, run_id="1"))
    second = compute(config_of(tmp_path, run_id="2", since="last"))
    assert first is not None
    assert second is not None
    assert "mIoU –" in format_run(first, lambda tables: "mIoU –")
    text = format_run(second, lambda tables: "mIoU –")
    assert text.strip().startswith("0 images, 0 errors\nrows:")
