"""A real Ray head with its job server, started as users start one, for the tests."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ports import free_ports

REPO = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DEADLINE = 90  # seconds until the job server answers
OBJECT_STORE = 500_000_000  # bytes; Ray would take a share of the memory that happens to be free


@dataclass(frozen=True)
class RayHead:
    """Where to reach it: `address` for drivers, `jobs` for the job server; `environment` makes a job join it."""

    address: str
    jobs: str
    environment: dict[str, str]


@contextmanager
def ray_head(*, cpus: int) -> Iterator[RayHead]:
    """Start `ray start --head` in the repository, and end exactly its processes."""
    port, jobs, agent, client = free_ports(4)
    # A socket's path holds 107 bytes, fewer than pytest's folders take.
    folder = tempfile.mkdtemp(prefix="ray-")
    command = [
        *(str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"),
        *(f"--port={port}", f"--dashboard-port={jobs}", f"--num-cpus={cpus}", f"--temp-dir={folder}"),
        # Every port is ours: another head on the machine holds Ray's own choice.
        *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
        *("--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={OBJECT_STORE}"),
    ]
    environment = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_DATA_LOG_LEVEL": "ERROR",
        # Who else fills this machine's memory or disk is not what the tests are about.
        "RAY_memory_monitor_refresh_ms": "0",
        # Workers start when they are needed, not one for each logical CPU at once.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_local_fs_capacity_threshold": "1",
    }
    log = Path(folder) / "start.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=REPO, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{jobs}"
        _wait(process, url, log)
        address = f"127.0.0.1:{port}"
        yield RayHead(address, url, {"RAY_ADDRESS": address})
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen, url: str, log: Path) -> None:
    request = urllib.request.Request(
        f"{url}/api/jobs/", headers={"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    )
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(request, timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"ray start did not come up:\n{log.read_text()[-3000:]}")
