"""Starting Ray on a busy machine, and mapping work over a cluster."""

import functools
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import ray

from pipeline import cluster
from pipeline.errors import UserError
from tests.support.jobs import REPO


class Starts:
    """A stand-in for `ray.init` that fails some times, as on a machine that is too busy to start Ray in time."""

    def __init__(self, failures: int):
        self.failures = failures
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **options: Any) -> None:
        self.calls.append(options)
        if len(self.calls) <= self.failures:
            raise Exception("The current node timed out during startup.\nThis could happen because …")


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names no cluster and keeps what `connect` sets."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("RAY_DATA_LOG_LEVEL", "RAY_BACKEND_LOG_LEVEL", "RAY_DATA_USAGE_DISABLED"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return monkeypatch


def test_a_start_that_times_out_is_tried_once_more(no_cluster, capsys):
    starts = Starts(failures=1)
    no_cluster.setattr(ray, "init", starts)
    cluster.connect()
    assert len(starts.calls) == 2
    assert starts.calls[0] == starts.calls[1]
    assert starts.calls[0]["num_cpus"] == cluster.cpu_count() + cluster.SPARE_CPUS
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line != '{"waiting_for": "Ray to start"}'] == [
        "Ray did not start (The current node timed out during startup. This could happen because …); trying once more"
    ]


def test_two_starts_that_time_out_are_one_line(no_cluster, capsys):
    starts = Starts(failures=2)
    no_cluster.setattr(ray, "init", starts)
    with pytest.raises(UserError, match=r"Ray does not start on this machine: .* run the same command again") as caught:
        cluster.connect()
    assert len(starts.calls) == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dashboard", [False, True])
def test_only_a_ray_without_a_dashboard_collects_no_metrics(no_cluster, dashboard):
    no_cluster.setenv("RAY_task_events_report_interval_ms", "500")  # what the user has set stays
    seen = {}
    no_cluster.setattr(ray, "init", lambda **_: seen.update({name: os.environ.get(name) for name in cluster.METRICS}))
    cluster.connect(dashboard=dashboard)
    metrics, task_events = cluster.METRICS
    assert seen == {metrics: None if dashboard else "0", task_events: "500"}
    assert metrics not in os.environ
    assert os.environ[task_events] == "500"


def test_a_cluster_that_does_not_answer_is_named(no_cluster):
    no_cluster.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    no_cluster.setattr(ray, "init", Starts(failures=1))
    with pytest.raises(UserError, match=r"RAY_ADDRESS=10\.0\.0\.1:6379: The current node timed out"):
        cluster.connect()


WRITER = """
import os, sys
from pipeline import cluster

def init(**options):
    os.write(2, b"[2026 I 1 1] logging.cc:303: Set ray log level from environment variable RAY_BACKEND to 3\\n")
    os.write(2, b"what C++ code writes\\n")
    print("what Python writes", file=sys.stderr)
    {end}

import ray
ray.init = init
try:
    cluster.connect()
except Exception as error:
    print(type(error).__name__, file=sys.stderr)
print("later", file=sys.stderr)
"""


@pytest.mark.parametrize("end", ["pass", "raise ValueError"])
def test_the_line_about_rays_log_level_is_dropped_and_no_other(end):
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "SEGPIPE_RAY_LOGS")}
    run = functools.partial(
        subprocess.run, [sys.executable, "-c", WRITER.format(end=end)], capture_output=True, text=True, cwd=REPO
    )
    lines = run(env=environment).stderr.splitlines()
    assert not any("logging.cc" in line for line in lines)
    attempts = 1 if end == "pass" else 2
    assert lines.count("what C++ code writes") == lines.count("what Python writes") == attempts
    assert lines[-1] == "later"
    assert ("UserError" in lines) == (end != "pass")
    shown = run(env=environment | {"SEGPIPE_RAY_LOGS": "1"}).stderr
    assert shown.count("logging.cc") == attempts


class Scale:
    """Multiplies by a factor, as a method."""

    def __init__(self, factor: int):
        self.factor = factor

    def times(self, value: int, shift: int) -> int:
        return self.factor * value + shift


def test_results_come_in_the_order_of_the_calls(ray_driver, monkeypatch):
    """Functions, methods and partial functions are called, with more calls than are submitted at a time."""
    monkeypatch.setattr(cluster, "TASKS_PER_CPU", 1)
    shared = ray.put(5)
    calls = [(i, shared) for i in range(cluster.available().cpus * 2 + 1)]
    expected = [3 * i + 5 for i, _ in calls]
    assert list(cluster.map_tasks(Scale(3).times, calls)) == expected
    partial = functools.partial(Scale(3).times, shift=5)
    assert list(cluster.map_tasks(partial, [(i,) for i, _ in calls], sizes=[2] * len(calls))) == expected
    assert list(cluster.map_tasks(partial, [])) == []


def test_an_error_of_a_call_reaches_the_caller(ray_driver):
    with pytest.raises(ZeroDivisionError):
        list(cluster.map_tasks(divmod, [(1, 1), (1, 0)]))


# Starts Ray as a job does, runs a task, and prints the addresses on which Ray's processes listen.
LISTEN = """
import json, os
from pathlib import Path
from pipeline import cluster
cluster.connect()
import ray

@ray.remote(num_cpus=1)
def work():
    import ray.data
    return 7

assert ray.get([work.remote() for _ in range(2)]) == [7, 7]
parents = {}
for process in Path("/proc").glob("[0-9]*"):
    try:
        parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # ended meanwhile
        pass
family = {os.getpid()}
for _ in parents:
    family |= {child for child, parent in parents.items() if parent in family}
sockets = set()
for member in family:
    try:
        sockets |= {os.readlink(link) for link in Path("/proc", str(member), "fd").iterdir()}
    except OSError:
        pass
found = []
for table in ("tcp", "tcp6"):
    for line in Path("/proc/net", table).read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == "0A" and f"socket:[{inode}]" in sockets:
            found.append(local.partition(":")[0])
print("FOUND", json.dumps(found))
"""


@pytest.mark.ray
def test_a_ray_of_our_own_listens_on_loopback_only():
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    result = subprocess.run([sys.executable, "-c", LISTEN], cwd=REPO, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    addresses = json.loads(result.stdout.rpartition("FOUND ")[2])
    assert len(addresses) > 5
    loopback = {"0100007F", "0" * 24 + "01000000", "0" * 16 + "FFFF0000" + "0100007F"}
    assert set(addresses) <= loopback


def test_workers_import_what_the_driver_imports_wherever_it_runs(tmp_path):
    """The current directory may hold another package called `pipeline`, and the user may have no home."""
    (tmp_path / "pipeline.py").write_text("raise ImportError('another one')")
    script = tmp_path / "scripts" / "work.py"
    script.parent.mkdir()
    (script.parent / "beside.py").write_text("")
    script.write_text(
        "import ray\n"
        "from pipeline import cluster\n"
        "def where():\n"
        "    import beside, pipeline\n"
        "    return pipeline.__file__\n"
        "cluster.connect()\n"
        "print(ray.get(ray.remote(where).remote()))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPO), "HOME": "/dev/null/home"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == str(REPO / "pipeline" / "__init__.py"), done.stderr
