"""A Ray cluster of several nodes on this machine, whose processes can be found and killed.

The GCS keeps its tables in RocksDB, so that it can be killed and started again while the nodes live on.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from benchmarks.chaos.processes import Process, descendants
from benchmarks.ports import free_ports

HERE = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).parent / "ray"
HOST = "127.0.0.1"
START_SECONDS = 180
START_TRIES = 3  # Ray gives its own processes a fixed time, which a busy machine can exceed
GCS, RAYLET = "gcs/gcs_server", "raylet/raylet"  # in the command lines of Ray's processes
OBJECT_STORE = 200_000_000  # bytes of each node


class NodeStartError(RuntimeError):
    """A node of the cluster did not start; the message contains the end of its log."""


class RayCluster:
    """The cluster; a `with` block runs it.

    Args:
        nodes: Number of nodes, the head included.
        cpus: Logical CPUs of each node.
        environment: Environment of all its processes.
    """

    def __init__(self, *, nodes: int, cpus: int, environment: dict[str, str]):
        self._size = nodes
        self._cpus = cpus
        self._environment = environment | {
            "RAY_DATA_LOG_LEVEL": "ERROR",
            # Who else fills this machine's memory or disk is not what is measured.
            "RAY_memory_monitor_refresh_ms": "0",
            "RAY_local_fs_capacity_threshold": "1",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_gcs_storage": "rocksdb",
        }
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._lost: list[subprocess.Popen[bytes]] = []  # nodes whose raylet was killed
        self._gcs: list[subprocess.Popen[bytes]] = []  # GCS processes that were started again
        self._folder = Path()
        self.address = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all nodes."""
        for attempt in range(START_TRIES):
            self._folder = Path(tempfile.mkdtemp(prefix="ray-"))  # a socket's path holds 107 bytes
            port, client = free_ports(2)
            self.address = f"{HOST}:{port}"
            head = ["--head", f"--port={port}", f"--ray-client-server-port={client}", "--include-dashboard=false"]
            try:
                self._start_node([*head, f"--temp-dir={self._folder}"])
                for _ in range(self._size - 1):
                    self._start_node([f"--address={self.address}"])
                return
            except NodeStartError:
                self.stop()
                if attempt == START_TRIES - 1:
                    raise

    def stop(self) -> None:
        """End all processes of the cluster."""
        for process in [*self._nodes, *self._lost, *self._gcs]:
            _end(process)
        self._nodes, self._lost, self._gcs = [], [], []
        shutil.rmtree(self._folder, ignore_errors=True)

    def restart(self) -> None:
        """Start a new cluster in place of this one, which may be dead."""
        self.stop()
        self.start()

    @property
    def alive(self) -> bool:
        """Whether the head has a GCS and a raylet."""
        found = [process.command for process in descendants(self._nodes[0].pid)] if self._nodes else []
        gcs = any(GCS in command for command in found) or any(process.poll() is None for process in self._gcs)
        return gcs and any(RAYLET in command for command in found)

    def processes(self, *words: str) -> list[Process]:
        """Return the cluster's processes whose command lines contain all of some words."""
        found = [process for node in self._nodes for process in descendants(node.pid)]
        return [process for process in found if all(word in process.command for word in words)]

    def lose_node(self, index: int) -> None:
        """Kill the raylet of a node that is not the head; its other processes end with it."""
        node = self._nodes.pop(1 + index % (len(self._nodes) - 1))
        for process in descendants(node.pid):
            if RAYLET in process.command:
                kill(process.pid)
        self._lost.append(node)

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self._nodes)

    def add_node(self) -> None:
        """Start a node, unless the whole cluster has died by now."""
        if not self.alive:
            return
        for attempt in range(START_TRIES):
            try:
                self._start_node([f"--address={self.address}"])
                return
            except NodeStartError:
                if attempt == START_TRIES - 1:
                    raise

    def lose_head(self) -> None:
        """Kill all processes of the head."""
        _end(self._nodes.pop(0))

    def kill_gcs(self) -> Callable[[], None]:
        """Kill the GCS; return a function that starts it again."""
        head = self._nodes[0].pid
        # `ray start --block` would end the head when it sees that the GCS is gone.
        kill(head, signal.SIGSTOP)
        (pid,) = [p.pid for p in descendants(head) if GCS in p.command] or [self._gcs[-1].pid]
        command, environment = _strings(pid, "cmdline"), _strings(pid, "environ")
        kill(pid)

        def start_again() -> None:
            process = subprocess.Popen(
                command,
                env=dict(entry.split("=", 1) for entry in environment if "=" in entry),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._gcs.append(process)

        return start_again

    def _start_node(self, options: list[str]) -> None:
        """Start a node and wait for it: two that start at the same time may choose the same ports."""
        log = self._folder / f"start-{time.monotonic_ns()}.log"
        (agent,) = free_ports(1)
        command = [
            *(str(RAY), "start", "--block", "--disable-usage-stats", f"--node-ip-address={HOST}", *options),
            *(f"--num-cpus={self._cpus}", f"--object-store-memory={OBJECT_STORE}"),
            *(f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0", "--max-worker-port=0"),
        ]
        environment = self._environment | {"RAY_gcs_storage_path": str(self._folder / "gcs")}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=HERE, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            _wait(process, log)
        except NodeStartError:
            _end(process)
            raise
        self._nodes.append(process)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process, which may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _end(node: subprocess.Popen[bytes]) -> None:
    """Kill a node: what `ray start` has started, and what is below it."""
    if node.returncode is not None:  # its number may be another process's by now
        return
    below = descendants(node.pid)
    with suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    for process in below:
        kill(process.pid)
    node.wait()


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if "Ray runtime started" in log.read_text(errors="replace"):
            return
        time.sleep(0.2)
    raise NodeStartError(f"ray start did not come up:\n{log.read_text(errors='replace')[-3000:]}")


def _strings(pid: int, name: str) -> list[str]:
    """Return the NUL-terminated strings of a file of a process."""
    return Path(f"/proc/{pid}/{name}").read_bytes().decode().rstrip("\0").split("\0")
