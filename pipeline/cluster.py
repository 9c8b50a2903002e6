"""Starting or joining Ray, and refusing at once what the cluster cannot run: Ray itself would wait for ever."""

import logging
import os
from dataclasses import dataclass
from typing import Any

import ray

from pipeline.errors import UserError

# Logical CPUs beyond the machine's own when we start Ray ourselves: the light tasks (listing, encoding,
# writing) run beside workers that hold every core.
SPARE_CPUS = 2


def cpu_count() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def connect(*, dashboard: bool = False, ray_logs: bool = False) -> None:
    """Join the cluster that RAY_ADDRESS names (`ray job submit` sets it) or start Ray on this machine.

    Args:
        dashboard: start Ray's dashboard too, on loopback, where we start Ray.
        ray_logs: show what Ray and its workers log; errors come as exceptions either way. The environment
            variable SEGPIPE_RAY_LOGS=1 asks for it too.
    """
    if ray.is_initialized():
        return
    show = ray_logs or os.environ.get("SEGPIPE_RAY_LOGS") == "1"
    if not show:
        for name in ("ray.data", "ray.train", "ray._private.authentication"):
            logging.getLogger(name).setLevel(logging.ERROR)
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's C++ warns on stderr of what is its own
    common: dict[str, Any] = {"logging_level": "warning", "log_to_driver": show}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**common)
    else:
        ray.init(
            address="local",
            num_cpus=cpu_count() + SPARE_CPUS,
            include_dashboard=dashboard,
            _node_ip_address="127.0.0.1",  # Ray listens on every interface all the same, guarded by its token
            **common,
        )


@dataclass(frozen=True)
class Resources:
    """What the living nodes of the cluster have in all, and on the largest node."""

    cpus: int
    gpus: int
    largest_node_cpus: int


def available() -> Resources:
    """The resources of the cluster as it is now, busy or not."""
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    return Resources(
        cpus=int(sum(n.get("CPU", 0) for n in nodes)),
        gpus=int(sum(n.get("GPU", 0) for n in nodes)),
        largest_node_cpus=int(max((n.get("CPU", 0) for n in nodes), default=0)),
    )


def require(*, workers: int, cpus_per_worker: float, use_gpu: bool, spare_cpus: int, what: str) -> None:
    """Refuse a run whose workers the cluster cannot hold beside the tasks that feed them.

    Args:
        workers: processes that hold their resources for the whole run.
        cpus_per_worker: CPUs that each holds.
        use_gpu: each holds a GPU too.
        spare_cpus: CPUs that must stay free for the other stages.
        what: the run, for the message.

    Raises:
        UserError: naming what is missing.
    """
    have = available()
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    places = 0
    for node in nodes:
        fit = int(node.get("CPU", 0) // cpus_per_worker) if cpus_per_worker else workers
        places += min(fit, int(node.get("GPU", 0))) if use_gpu else fit
    needed = workers * cpus_per_worker + spare_cpus
    if use_gpu and have.gpus < workers:
        raise UserError(
            f"{what} needs {workers} GPUs, and the cluster has {have.gpus}; add GPU nodes, ask for fewer workers, "
            "or pass --wait-for-nodes if an autoscaler will add them"
        )
    if places < workers or have.cpus < needed:
        raise UserError(
            f"{what} needs {needed:g} CPUs ({workers} x {cpus_per_worker:g} for its workers, {spare_cpus} for the "
            f"stages beside them), and the cluster has {have.cpus} (largest node {have.largest_node_cpus}); "
            "ask for fewer workers or add nodes, or pass --wait-for-nodes if an autoscaler will add them"
        )
