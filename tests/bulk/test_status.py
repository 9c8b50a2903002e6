"""The status of runs from storage alone: while they go on, after they died, and once they are finished."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.bulk.shards import parts
from pipeline.bulk.status import FEWEST_PARTS, Part, Status, StatusReader, _read_causes, rate
from pipeline.bulk.status_text import format_status, to_json
from pipeline.errors import UserError
from tests.support.jobs import REPO
from tests.support.nights import Killed, compute, config_of, draw, without_ray


def half_done(folder: Path, monkeypatch: pytest.MonkeyPatch, *, shards: int = 3) -> str:
    """A run over nine good and three broken images in four shards, whose driver was killed, and its folder."""
    draw(folder / "images", *(f"{i}.png" for i in range(9)), *(f"broken-{i}.png" for i in range(3)))

    def stop(shard: int) -> None:
        if shard == shards:
            raise Killed

    without_ray(monkeypatch, stop=stop)
    with pytest.raises(Killed):
        compute(config_of(folder, run_id="x"))
    return f"{folder}/runs/run_id=x"


def lease(run: str, *, seconds: float) -> None:
    """Write a lease that was renewed some seconds ago."""
    time = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
    content = {"owner": "o", "host": "node-1", "pid": 4711, "time": time}
    Path(run, "_run", "lease.json").write_text(json.dumps(content))


def test_a_run_whose_driver_died(tmp_path, monkeypatch):
    run = half_done(tmp_path, monkeypatch)
    for i, name in enumerate(sorted(parts(run))):
        os.utime(Path(run, name), (1000 + 2 * i, 1000 + 2 * i))
    status = StatusReader(run).read()
    assert (status.run, status.run_id, status.job, status.state) == (run, "x", "plain", "stopped")
    assert (status.images, status.written, status.shards, status.shards_written) == (12, 9, 4, 3)
    assert (status.errors, status.causes) == (0, [])
    assert status.images_per_second == 1.5
    assert status.seconds_left == 2.0
    assert status.last_written == "1970-01-01T00:16:44+00:00"
    assert status.next == "run the same command of segpipe plain again: it resumes the run"
    text = format_status(status, causes=10)
    assert text.startswith(f"{run}: 9 of 12 images (75%), 3 of 4 shards\nstate:   stopped; no driver is at work; rows")
    assert "speed:   1.5 images/s at last; about 2 s of work left" in text


def test_a_run_whose_driver_is_at_work_and_one_whose_lease_is_stale(tmp_path, monkeypatch):
    run = half_done(tmp_path, monkeypatch)
    lease(run, seconds=10)
    status = StatusReader(run).read()
    assert (status.state, status.next) == ("running", "nothing: a driver is at work")
    assert "running; the driver (node-1, process 4711) was last seen 10 s ago" in format_status(status, causes=10)
    lease(run, seconds=100)
    status = StatusReader(run).read()
    assert status.state == "stopped"
    assert "stopped; the driver (node-1, process 4711) was last seen 100 s ago" in format_status(status, causes=10)


def test_errors_are_counted_by_cause_and_files_are_read_once(tmp_path, monkeypatch):
    run = half_done(tmp_path, monkeypatch, shards=3)
    reader = StatusReader(run)
    assert reader.read().errors == 0
    without_ray(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.bulk.run.finish", lambda *_, **__: None)
        compute(config_of(tmp_path, run_id="x"))
    read: list[str] = []

    def note(run: str, name: str) -> list[dict[str, object]] | None:
        read.append(name)
        return _read_causes(run, name)

    monkeypatch.setattr("pipeline.bulk.status._read_causes", note)
    status = reader.read()
    assert read == sorted(parts(run))[3:]
    assert status.errors == 3
    assert status.causes == [
        {"stage": "decode", "class": "ImageError", "pattern": "the file is empty", "count": 3}
        | {"example": "broken-0.png: the file is empty"}
    ]
    assert "         3  decode ImageError, such as broken-0.png: the file is empty" in format_status(status, causes=10)
    assert "1 more causes" in format_status(status, causes=0)


def test_a_finished_run(tmp_path, monkeypatch):
    run = half_done(tmp_path, monkeypatch)
    without_ray(monkeypatch)
    compute(config_of(tmp_path, run_id="x"))
    status = StatusReader(run).read()
    assert (status.state, status.written, status.errors, status.shards_written) == ("finished", 12, 3, 4)
    assert status.causes[0]["count"] == 3
    assert status.next == (
        f"segpipe plain with this run's options and --retry-errors {run} --run-id NAME computes the images that failed "
        "again"
    )
    assert json.loads(to_json(status))["state"] == "finished"
    assert f"state:   finished at {status.finished}" in format_status(status, causes=10)


def test_a_night_without_news(tmp_path, monkeypatch):
    """Its empty file belongs to no shard of the plan."""
    without_ray(monkeypatch)
    draw(tmp_path / "images", "a.png")
    compute(config_of(tmp_path, run_id="1"))
    run = compute(config_of(tmp_path, run_id="2", since="last"))
    assert run is not None
    status = StatusReader(run).read()
    assert (status.images, status.written, status.removed) == (0, 0, 0)
    text = format_status(status, causes=10)
    assert f"earlier: {tmp_path}/runs/run_id=1; 0 of its images are no longer in the input" in text
    (Path(run) / "manifest.json").unlink()
    assert StatusReader(run).read().written == 0


def test_a_plan_that_is_being_made(tmp_path):
    run = tmp_path / "run_id=x"
    (run / "_run").mkdir(parents=True)
    with pytest.raises(UserError, match="run_id=x has written nothing yet: its command ended early"):
        StatusReader(str(run)).read()
    lease(str(run), seconds=1)
    assert StatusReader(str(run)).read().state == "planning"
    lease(str(run), seconds=1000)
    status = StatusReader(str(run)).read()
    assert (status.state, status.next) == ("stopped", "run the same command again: it makes the plan anew")
    assert "0 of 0 images" in format_status(status, causes=10)


def test_a_file_that_vanishes_is_passed_over(tmp_path, monkeypatch):
    """The end of a run merges its files while somebody looks."""
    run = half_done(tmp_path, monkeypatch)
    found = parts(run)
    Path(run, sorted(found)[1]).unlink()
    monkeypatch.setattr("pipeline.bulk.status.parts", lambda _: found)
    assert StatusReader(run).read().errors == 0


@pytest.mark.parametrize(
    ("parts_", "expected"),
    [
        ([(5, 100.0)], None),
        ([(5, 100.0), (5, 100.0)], None),
        ([(9, 100.0), (5, 110.0), (5, 120.0)], 0.5),
        ([(5, 120.0), (9, 100.0), (5, 110.0)], 0.5),
        ([(7, 0.0)] * 10 + [(6, 10_000.0 + 3 * i) for i in range(FEWEST_PARTS)], 2.0),  # a pause of hours
        ([(6, 7200.0 * i) for i in range(20)], 6 / 7200),  # a file every other hour
    ],
)
def test_the_rate_is_that_of_the_last_quarter_of_an_hour(parts_, expected):
    written = [Part(*part) for part in parts_]
    assert rate(written) == (expected and pytest.approx(expected))


def test_the_job_prints_text_and_json_and_knows_a_mistake(tmp_path, monkeypatch):
    run = half_done(tmp_path, monkeypatch)

    def job(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(REPO / "jobs" / "status.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=REPO)

    assert "9 of 12 images (75%)" in job(run).stdout
    assert Status(**json.loads(job(run, "--format", "json").stdout)).written == 9
    wrong = job(str(tmp_path))
    assert (wrong.returncode, wrong.stderr) == (
        2,
        f"error: {tmp_path} is not a run; name the folder of a run, OUTPUT/run_id=…\n",
    )
    assert job().stderr == "error: the following arguments are required: RUN (see --help)\n"
    assert job("--run", run).stderr == "error: unknown option --run; see --help\n"
