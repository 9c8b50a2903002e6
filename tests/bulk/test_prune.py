"""Which runs are removed, which stay because others need them, and how a run is removed."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import storage
from pipeline.bulk.prune import StoredRun, choose, format_pruning, plan_pruning, read_runs, remove_run
from pipeline.bulk.upkeep_config import PruneConfig
from pipeline.errors import UserError
from tests.support.jobs import REPO
from tests.support.nights import Killed, compute, config_of, draw, without_ray

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def stored(name: str, days: float, **changes: Any) -> StoredRun:
    """A run that was finished some days ago."""
    values: dict[str, Any] = {
        "run": f"/runs/run_id={name}",
        "group": ("segment", "/images"),
        "time": NOW - timedelta(days=days),
        "is_finished": True,
        "is_leased": False,
        "needs": set(),
        "retries": None,
        "bytes": 10,
    }
    needs = {f"run_id={other}" for other in changes.pop("needs", ())}
    retries = changes.pop("retries", None)
    if retries:
        needs |= {f"run_id={retries}"}
        values["retries"] = f"run_id={retries}"
    return StoredRun(**(values | changes | {"needs": needs}))


def removed(runs: list[StoredRun], **options: Any) -> list[str]:
    ordered = sorted(runs, key=lambda run: run.time)
    pruning = choose(PruneConfig(output="/runs", **options), ordered, NOW)
    return [run.name.removeprefix("run_id=") for run in pruning.removed]


def test_age():
    runs = [stored("a", 40), stored("b", 31), stored("c", 29), stored("d", 1)]
    assert removed(runs, older_than="30d") == ["a", "b"]
    assert removed(runs, older_than="12h") == ["a", "b", "c"]  # the newest stays
    assert removed(runs, older_than="12h", keep=0) == ["a", "b", "c", "d"]
    assert removed(runs, older_than="12h", keep=3) == ["a"]


def test_number_of_each_job_and_input():
    runs = [stored("a", 4), stored("b", 3), stored("c", 2)]
    runs += [stored("x", 9, group=("segment", "/others")), stored("y", 8, group=("localize", "/images"))]
    assert removed(runs, keep=1) == ["a", "b"]
    assert removed(runs, keep=2) == ["a"]
    assert removed(runs, keep=0) == ["x", "y", "a", "b", "c"]


def test_size():
    runs = [stored("a", 4, bytes=50), stored("b", 3, bytes=30), stored("c", 2, bytes=20)]
    assert removed(runs, max_size=100) == []
    assert removed(runs, max_size=99) == ["a"]
    assert removed(runs, max_size=50) == ["a"]
    assert removed(runs, max_size=49) == ["a", "b"]
    assert removed(runs, max_size=0) == ["a", "b"]
    assert removed(runs, max_size=60, older_than="80h") == ["a"]
    assert removed(runs, max_size="1GiB", older_than="80h") == ["a"]


def test_a_chain_of_nights_goes_as_a_whole_or_not_at_all():
    chain = [stored("a", 50), stored("b", 49, needs=["a"]), stored("c", 48, needs=["b"])]
    assert removed(chain, older_than="30d") == []  # c is the newest
    assert removed([*chain, stored("d", 1)], older_than="30d") == ["a", "b", "c"]
    assert removed([*chain, stored("d", 1, needs=["c"])], older_than="30d") == []
    assert removed([*chain, stored("d", 1)], max_size=35) == ["a", "b", "c"]
    assert removed([*chain, stored("d", 1, needs=["b"])], older_than="30d") == ["c"]
    unfinished = stored("u", 1, needs=["b"], is_finished=False)
    assert removed([*chain, stored("d", 1), unfinished], older_than="30d") == ["c"]


def test_a_retry_goes_together_with_the_run_that_it_retried():
    night, retry, last = stored("night", 50), stored("retry", 49, retries="night"), stored("last", 1)
    assert removed([night, retry, last], older_than="30d") == ["night", "retry"]
    assert removed([night, retry], older_than="30d") == []  # a retry is not the newest: --since last passes it over
    needing = stored("last", 1, needs=["night"])
    assert removed([night, retry, needing], older_than="30d") == []
    assert removed([night, stored("retry", 3, retries="night"), last], older_than="30d") == []
    assert removed([stored("retry", 49, retries="gone"), last], older_than="30d") == ["retry"]


def test_unfinished_runs_and_those_with_a_driver_stay():
    open_run, busy = stored("open", 50, is_finished=False), stored("busy", 60, is_leased=True)
    others = [stored("new", 1)]
    assert removed([open_run, busy, *others], older_than="30d") == []
    assert removed([open_run, busy, *others], keep=0) == ["new"]
    assert removed([open_run, busy, *others], older_than="30d", unfinished=True) == ["open"]
    assert removed([stored("u", 60, is_leased=True, is_finished=False)], older_than="30d", unfinished=True) == []


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_run_is_removed_that_a_run_which_stays_needs(data):
    count = data.draw(st.integers(0, 8))
    runs = []
    for i in range(count):
        base = data.draw(st.none() | st.integers(0, i - 1)) if i else None
        link = {} if base is None else {"retries": f"{base}"} if data.draw(st.booleans()) else {"needs": [f"{base}"]}
        flags = {"is_finished": data.draw(st.booleans()), "is_leased": data.draw(st.booleans())}
        size = data.draw(st.integers(0, 9))
        runs.append(stored(f"{i}", days=20 - i + data.draw(st.integers(0, 3)), bytes=size, **link, **flags))
    runs.sort(key=lambda run: run.time)
    days = data.draw(st.none() | st.integers(1, 25))
    limits = {"keep": data.draw(st.integers(0, 3)), "max_size": data.draw(st.none() | st.integers(0, 40))}
    limits |= {"older_than": days and days * 86400.0, "unfinished": days is not None and data.draw(st.booleans())}
    config = PruneConfig.model_validate({"output": "/runs"} | limits)
    pruning = choose(config, runs, NOW)
    gone = {run.name for run in pruning.removed}
    stay = [run for run in runs if run.name not in gone]
    assert not gone & {name for run in stay for name in run.needs}
    assert not any(run.retries in {other.name for other in stay} for run in pruning.removed)
    assert not any(run.is_leased or (not run.is_finished and not config.unfinished) for run in pruning.removed)
    nights = [run for run in runs if run.is_finished and run.retries is None]
    assert not gone & {run.name for run in nights[len(nights) - (config.keep or 0) :]}
    assert pruning.bytes_left == sum(run.bytes for run in stay)
    assert not gone & {run.name for run, _ in pruning.kept}
    list(format_pruning(pruning, NOW))


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """Three nights with `--since last`, then a full run, a retry of it and an unfinished one; by age in this order."""
    without_ray(monkeypatch)
    draw(tmp_path / "images", "a.png", "broken.png")
    for i in range(3):
        draw(tmp_path / "images", f"new-{i}.png")
        compute(config_of(tmp_path, since="last", run_id=f"night-{i}"))
        backdate(tmp_path, f"night-{i}", days=100 - i)
    compute(config_of(tmp_path, run_id="full"))
    backdate(tmp_path, "full", days=50)
    compute(config_of(tmp_path, retry_errors="last", run_id="retry"))
    backdate(tmp_path, "retry", days=49)

    def stop(shard: int) -> None:
        raise Killed

    without_ray(monkeypatch, stop=stop)
    draw(tmp_path / "images", "newest.png")
    with pytest.raises(Killed):
        compute(config_of(tmp_path, since=f"{tmp_path}/runs/run_id=full", run_id="open"))
    return tmp_path


def backdate(folder: Path, run_id: str, *, days: float) -> None:
    manifest = folder / "runs" / f"run_id={run_id}" / "manifest.json"
    finished = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"finished": finished}))


def job(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPO / "jobs" / "prune.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPO)


def names(folder: Path) -> list[str]:
    return sorted(path.name.removeprefix("run_id=") for path in (folder / "runs").iterdir())


def test_the_job_prints_first_and_removes_only_when_asked(runs):
    everything = names(runs)
    result = job(runs / "runs", "--older-than", "90d")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split(" (")[0] for line in lines[:3]] == [f"remove {runs}/runs/run_id=night-{i}" for i in range(3)]
    assert lines[-1] == "nothing was removed; --yes removes"
    assert names(runs) == everything
    result = job(runs / "runs", "--older-than", "90d", "--yes")
    gone = [line for line in result.stdout.splitlines() if line.startswith("removed ")]
    assert gone == [f"removed run_id=night-{i}" for i in (2, 1, 0)]  # never a run before those that need it
    assert names(runs) == ["full", "open", "retry"]


def test_the_run_that_an_unfinished_run_names_stays_with_its_retry(runs):
    result = job(runs / "runs", "--older-than", "1d", "--keep", "0", "--yes")
    assert names(runs) == ["full", "open", "retry"]
    assert "run_id=full (" in result.stdout
    assert ": run_id=open needs it" in result.stdout
    assert ": run_id=full needs it" in result.stdout
    assert "1 unfinished runs among them" in result.stdout


def test_a_run_is_removed_manifest_first_and_configuration_last(runs, monkeypatch):
    """Whenever it is interrupted, the rest is an unfinished run that the next call removes."""
    (run,) = [run for run in read_runs(f"{runs}/runs") if run.name == "run_id=full"]
    fs, _ = storage.filesystem(run.run)
    order: list[str] = []
    rm_file = type(fs).rm_file

    def note(self: Any, path: str) -> None:
        order.append(path.removeprefix(f"{run.run}/"))
        rm_file(self, path)

    monkeypatch.setattr(type(fs), "rm_file", note)
    files = {file.path.removeprefix(f"{run.run}/") for file in storage.list_files(run.run)}
    assert remove_run(run)
    assert order[0] == "manifest.json"
    assert order[-1] == "_run/config.json"
    assert set(order) == files
    assert not Path(run.run).exists()


def test_a_driver_that_begins_in_the_meantime_keeps_its_run(runs):
    run = next(run for run in read_runs(f"{runs}/runs") if run.name == "run_id=full")
    lease = {"owner": "o", "host": "h", "pid": 1, "time": datetime.now(UTC).isoformat()}
    Path(run.run, "_run", "lease.json").write_text(json.dumps(lease))
    assert not remove_run(run)
    assert Path(run.run, "manifest.json").exists()


def test_other_folders_are_not_touched(runs):
    for name in ("other", "run_id=foreign", "run_id=no_config/images"):
        (runs / "runs" / name).mkdir(parents=True)
        (runs / "runs" / name / "file").write_text("mine")
    (runs / "runs" / "run_id=file").write_text("mine")
    (runs / "runs" / "run_id=link").symlink_to(runs / "runs" / "run_id=full")
    job(runs / "runs", "--keep", "0", "--older-than", "0.001s", "--unfinished", "--yes")
    assert names(runs) == ["file", "foreign", "link", "no_config", "other"]


@pytest.mark.parametrize(
    ("place", "options", "message"),
    [
        ("images", ["--keep", "1"], r"images holds no run: no folder run_id=… into which a run has written"),
        ("nowhere", ["--keep", "1"], "nowhere holds no run"),
        ("runs/run_id=full", ["--keep", "1"], "run_id=full is a run; name the folder above it"),
        ("runs", [], "name what to remove: --older-than 30d, --keep 7 or --max-size 500GiB"),
        ("runs", ["--keep", "1", "--unfinished"], "--unfinished needs --older-than"),
        ("runs", ["--older-than", "30"], "--older-than: expected a duration"),
    ],
)
def test_a_wrong_folder_or_option_is_refused(runs, place, options, message):
    result = job(runs / place, *options, "--yes")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert re.search(message, result.stderr)
    assert names(runs) == ["full", "night-0", "night-1", "night-2", "open", "retry"]


def test_runs_are_read_from_storage(runs):
    found = {run.name.removeprefix("run_id="): run for run in read_runs(f"{runs}/runs")}
    assert found["night-2"].needs == {"run_id=night-1"}
    assert (found["retry"].retries, found["retry"].needs) == ("run_id=full", {"run_id=full"})
    assert found["full"].bytes == sum(f.stat().st_size for f in Path(found["full"].run).rglob("*") if f.is_file())
    assert not found["open"].is_finished
    assert (datetime.now(UTC) - found["open"].time).total_seconds() < 600
    with pytest.raises(UserError):
        plan_pruning(PruneConfig(output=f"{runs}/runs"))
