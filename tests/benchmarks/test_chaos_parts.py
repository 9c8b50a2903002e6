"""The parts of the faults benchmark that need neither Ray nor a server."""

import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.chaos.config import ChaosConfig
from benchmarks.chaos.disk import clear, fill, small_disk
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.job import Job, judge
from benchmarks.chaos.plans import FULL, SHORT, scaled
from benchmarks.chaos.processes import descendants, handles
from benchmarks.chaos.rows import Difference, Row, compare
from pipeline.errors import UserError

A, B, C = (Row(name, "ok", f"sha-{name}", None, f"mask-{name}") for name in "abc")


@pytest.mark.parametrize(
    ("found", "difference"),
    [
        ([C, A, B], Difference([], [], [])),
        ([A, C], Difference(["b"], [], [])),
        ([A, B, B, B, C], Difference([], ["b", "b"], [])),
        ([A, B._replace(mask="other"), C], Difference([], [], ["b"])),
        ([A, B._replace(status="error", error_class="OSError", mask=None), C], Difference([], [], ["b"])),
        ([A, B, B._replace(sha256=None), C], Difference([], ["b"], ["b"])),
        ([A, B, C, C._replace(image_id="d")], Difference([], [], ["d"])),
        ([], Difference(["a", "b", "c"], [], [])),
    ],
)
def test_rows_that_are_lost_doubled_or_different_are_found(found, difference):
    assert compare([A, B, C], found) == difference


@pytest.mark.parametrize("faults", [1, 60, 200])
@pytest.mark.parametrize("episodes", [FULL, SHORT])
def test_at_least_as_many_faults_are_planned_as_wanted(episodes, faults):
    planned = scaled(episodes, faults)
    assert sum(sum(episode.faults.values()) for episode in planned) >= faults
    assert [set(episode.faults) for episode in planned] == [set(episode.faults) for episode in episodes]


def test_a_full_run_injects_every_fault():
    assert {name for episode in FULL for name in episode.faults} == set(FAULTS)


def test_an_unknown_episode_is_refused():
    with pytest.raises(UserError, match="no episode is named nodse; there are predictors,"):
        _ = ChaosConfig(only=("nodse", "head")).episodes


def run(tmp_path, *arguments) -> Job:
    job = Job(list(arguments), environment=dict(os.environ), log=tmp_path / "log")
    while job.code is None:
        time.sleep(0.05)
    return job


def test_an_ending_is_judged_by_its_exit_code(tmp_path):
    assert judge(run(tmp_path, "--version"), overdue=False) == (True, None)
    finished, finding = judge(run(tmp_path, "--imagse", "x"), overdue=False)
    assert not finished
    assert finding == "exit code 2 behind 1 lines; the last: error: unknown option --imagse; did you mean --images?"


def test_a_job_that_was_killed_by_a_fault_is_no_finding(tmp_path):
    job = Job(["--help"], environment=dict(os.environ), log=tmp_path / "log")
    job.kill()
    while job.code is None:
        time.sleep(0.05)
    assert judge(job, overdue=False) == (False, None)


def test_descendants_are_children_and_their_children():
    inner = "import time; time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}, 'inner'])"
    process = subprocess.Popen([sys.executable, "-c", outer, "outer"])
    try:
        while not (below := [p for p in descendants(process.pid) if p.command.endswith("inner")]):
            time.sleep(0.05)
        assert len(below) == 1
        assert process.pid in [p.pid for p in descendants(os.getpid())]
        assert process.pid not in [p.pid for p in descendants(process.pid)]
    finally:
        for one in descendants(process.pid):
            os.kill(one.pid, 9)
        process.kill()
        process.wait()


def test_a_process_handles_the_signals_that_it_has_a_handler_for():
    code = "import signal; signal.signal(signal.SIGTERM, lambda *_: None); print(flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert handles(process.pid, signal.SIGTERM)
        assert not handles(process.pid, signal.SIGUSR1)
    finally:
        process.kill()
        process.communicate()
    assert not handles(process.pid, signal.SIGTERM)


def test_a_full_disk_takes_nothing_until_it_is_cleared(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("only root may mount a disk")
        fill(disk)
        with pytest.raises(OSError, match="No space left"):
            (disk / "file").write_bytes(b"x" * 100)
        clear(disk)
        (disk / "file").write_bytes(b"x" * 100)
    assert not list((tmp_path / "disk").iterdir())
