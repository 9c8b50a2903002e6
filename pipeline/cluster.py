"""Starting or joining Ray, mapping work over its CPUs, and refusing at once what the cluster cannot run.

Ray itself waits for ever for resources that it does not have.
"""

import contextlib
import logging
import os
import secrets
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray.job_config import JobConfig

from pipeline.errors import UserError, one_line
from pipeline.progress import Progress, waiting
from pipeline.python import SearchPath

# Logical CPUs that a Ray of our own has beyond the machine's: light tasks (listing, encoding, writing) run beside
# workers that hold every core.
SPARE_CPUS = 2
LEVEL_LINE = b"Set ray log level from environment variable"
METRICS = ("RAY_enable_metrics_collection", "RAY_task_events_report_interval_ms")
TASKS_PER_CPU = 4  # submitted at a time by `map_tasks`: enough to keep every CPU busy, few enough to fit in memory


def cpu_count() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def connect(*, dashboard: bool = False, ray_logs: bool = False) -> None:
    """Join the cluster that RAY_ADDRESS names (`ray job submit` sets it), or start Ray on this machine.

    Args:
        dashboard: Start Ray's dashboard as well, on loopback, if Ray is started here.
        ray_logs: Show the log lines of Ray and its workers. Errors arrive as exceptions in any case. The environment
            variable SEGPIPE_RAY_LOGS=1 does the same.

    Raises:
        UserError: The cluster cannot be reached, or Ray does not start.
    """
    if ray.is_initialized():
        return
    show = ray_logs or os.environ.get("SEGPIPE_RAY_LOGS") == "1"
    if not show:
        for name in ("ray.data", "ray.train", "ray._private.authentication"):
            logging.getLogger(name).setLevel(logging.ERROR)
        os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")  # ray.data sets its level again when it is imported
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's C++ code warns on stderr about itself
    options: dict[str, Any] = {"logging_level": "warning", "log_to_driver": show, "job_config": _job_config()}
    address = os.environ.get("RAY_ADDRESS")
    if address:
        try:
            _init(options, show=show)
        except Exception as error:
            raise UserError(f"cannot join the Ray cluster at RAY_ADDRESS={address}: {one_line(error)}") from None
        return
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")  # its collector is a process of its own
    options |= {
        "address": "local",
        "num_cpus": cpu_count() + SPARE_CPUS,
        "include_dashboard": dashboard,
        "_node_ip_address": "127.0.0.1",  # then all of Ray's processes listen on loopback only
    }
    _provide_token()
    # Otherwise Ray takes a loopback address for that of the network: it might have to start a cluster.
    ray_constants.ENABLE_RAY_CLUSTER = False
    with contextlib.nullcontext() if dashboard else _without_metrics():
        try:
            _init(options, show=show)
        except Exception as error:  # Ray gives its own processes 30 s, which a busy machine can exceed
            print(f"Ray did not start ({one_line(error)}); trying once more", file=sys.stderr)
            ray.shutdown()
            try:
                _init(options, show=show)
            except Exception as second:
                raise UserError(
                    f"Ray does not start on this machine: {one_line(second)} If the machine is busy, run the same "
                    "command again later; SEGPIPE_RAY_LOGS=1 shows what Ray logs"
                ) from None


def _init(options: dict[str, Any], *, show: bool) -> None:
    with waiting("Ray to start"), contextlib.nullcontext() if show else _without_level_line():
        ray.init(**options)


@contextlib.contextmanager
def _without_metrics() -> Iterator[None]:
    """Let the processes of a Ray that starts meanwhile collect no metrics, which only a dashboard shows."""
    ours = [name for name in METRICS if name not in os.environ]
    os.environ.update(dict.fromkeys(ours, "0"))
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


def _provide_token() -> None:
    """Give Ray the token by which its processes know each other, if it cannot keep one in the user's home."""
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # the user has no home, as in some containers
        writable = False
    if not writable:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _job_config() -> JobConfig:
    """Return the configuration of a job whose workers import what this process imports.

    Ray adds the current directory to the list, which would come first; but not for a client, which sends the list.
    """
    config = JobConfig()
    if not os.environ.get("RAY_ADDRESS", "").startswith("ray://"):
        config._py_driver_sys_path = SearchPath()
    return config


@contextlib.contextmanager
def _without_level_line() -> Iterator[None]:
    """Drop the line in which Ray's C++ code says that RAY_BACKEND_LOG_LEVEL is set, which it logs before it obeys.

    What else C++ code writes to standard error meanwhile is written when the block ends; Python's writes pass at once.
    """
    python_stderr = sys.stderr
    try:
        number = python_stderr.fileno()
    except (OSError, ValueError):  # not a file, as in a notebook
        yield
        return
    with tempfile.TemporaryFile() as held:
        original = os.dup(number)
        sys.stderr = os.fdopen(os.dup(original), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
        python_stderr.flush()
        os.dup2(held.fileno(), number)
        try:
            yield
        finally:
            sys.stderr = python_stderr
            os.dup2(original, number)
            os.close(original)
            held.seek(0)
            for line in held:
                if LEVEL_LINE not in line:
                    os.write(number, line)


def map_tasks(
    function: Callable[..., Any],
    calls: Sequence[tuple[Any, ...]],
    *,
    sizes: Sequence[int] | None = None,
    unit: str = "images",
    title: str | None = None,
    gpus_per_task: int = 0,
) -> Iterator[Any]:
    """Call a function in tasks of one CPU each all over the cluster, and show the progress.

    Args:
        function: It and what it returns must be picklable.
        calls: The arguments of each call; Ray object references among them arrive as the objects.
        sizes: How far each call moves the progress bar; 1 by default.
        unit: What the progress bar counts.
        title: Heading of the progress bar.
        gpus_per_task: GPUs that each task holds.

    Yields:
        The results, in the order of the calls.
    """
    task, shared = ray.remote(num_cpus=1, num_gpus=gpus_per_task)(_call), ray.put(function)
    in_flight = max(1, available().cpus) * TASKS_PER_CPU
    waiting = deque(enumerate(calls))
    running: deque[tuple[int, Any]] = deque()
    total = len(calls) if sizes is None else sum(sizes)
    with Progress(total=total, unit=unit, title=title or "computing", delay=1) as progress:
        while waiting or running:
            while waiting and len(running) < in_flight:
                i, arguments = waiting.popleft()
                running.append((i, task.remote(shared, *arguments)))
            i, reference = running.popleft()
            result = ray.get(reference)
            progress.update(1 if sizes is None else sizes[i])
            yield result


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function, which may be a method: Ray itself takes plain functions only."""
    return function(*arguments)


@dataclass(frozen=True)
class Resources:
    """The resources of the living nodes of a cluster: in all, and on the largest node."""

    cpus: int
    gpus: int
    largest_node_cpus: int


def available() -> Resources:
    """Return the resources that the cluster has now, busy or not."""
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    return Resources(
        cpus=int(sum(n.get("CPU", 0) for n in nodes)),
        gpus=int(sum(n.get("GPU", 0) for n in nodes)),
        largest_node_cpus=int(max((n.get("CPU", 0) for n in nodes), default=0)),
    )


def use_gpus(wanted: bool | None) -> bool:
    """Return whether workers get GPUs: if that is wanted or, by default (None), if the cluster has any."""
    return available().gpus > 0 if wanted is None else wanted


def require(*, workers: int, cpus_per_worker: float, use_gpu: bool, spare_cpus: int, noun: str, flag: str) -> None:
    """Refuse a run whose workers the cluster cannot hold beside the tasks that feed them.

    Args:
        workers: Processes that hold their resources for the whole run.
        cpus_per_worker: CPUs that each worker holds.
        use_gpu: Whether each worker holds a GPU as well.
        spare_cpus: CPUs that must stay free for the other stages.
        noun: What the run is to the user, as in "training".
        flag: Option that sets the number of workers.

    Raises:
        UserError: The cluster is too small; the message names what is missing.
    """
    have = available()
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    places = 0
    for node in nodes:
        fit = int(node.get("CPU", 0) // cpus_per_worker) if cpus_per_worker else workers
        places += min(fit, int(node.get("GPU", 0))) if use_gpu else fit
    needed = workers * cpus_per_worker + spare_cpus
    wait = f"lower {flag}, add nodes, or pass --scaling.wait-for-nodes if an autoscaler will add them"
    if use_gpu and have.gpus < workers:
        raise UserError(f"{noun} needs {workers} GPUs, and the cluster has {have.gpus}; {wait}")
    if places < workers and have.cpus >= needed:
        gpu = " and a GPU" if use_gpu else ""
        raise UserError(
            f"{noun} needs {workers} workers with {cpus_per_worker:g} CPUs{gpu} on one node each, and the nodes have "
            f"room for {places}; {wait}"
        )
    if have.cpus < needed:
        raise UserError(
            f"{noun} needs {needed:g} CPUs ({workers} x {cpus_per_worker:g} for its workers, {spare_cpus} for the "
            f"other stages), and the cluster has {have.cpus} (largest node {have.largest_node_cpus}); {wait}"
        )
