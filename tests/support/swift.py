"""OpenStack Swift with its S3 API on the loopback interface: the real object store of the tests.

`python -m tests.support.swift FOLDER` serves one by hand, until interrupted or terminated. Swift runs in processes of
its own and is never imported here, because it puts green locks into `logging`.
"""

import argparse
import http.client
import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_ports

HOST = "127.0.0.1"
ACCESS_KEY = "test:tester"
SECRET_KEY = "only-for-tests"
START_SECONDS = 60
STOP_SECONDS = 5

STORAGE = """
pipeline = healthcheck KIND-server

[app:KIND-server]
use = egg:swift#KIND
"""

PROXY = f"""
pipeline = catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth copy slo dlo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
node_timeout = 60
conn_timeout = 5

[filter:tempauth]
use = egg:swift#tempauth
user_{ACCESS_KEY.replace(":", "_")} = {SECRET_KEY} .admin .reseller_admin

[filter:s3api]
use = egg:swift#s3api
s3_acl = false
check_bucket_owner = false
# S3 has 1,000 keys on a page: here a few objects are enough to make clients turn it.
max_bucket_listing = 20
min_segment_size = 5242880
""" + "".join(
    f"\n[filter:{name}]\nuse = egg:swift#{name}\n"
    for name in ("catch_errors", "gatekeeper", "listing_formats", "bulk", "copy", "slo", "dlo")
)

# One ring a kind, with one device; argv is the folder, then the ports of account, container and object server.
RINGS = """
import sys
from swift.common.ring import RingBuilder
for kind, port in zip(("account", "container", "object"), sys.argv[2:]):
    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "sda1", "weight": 1})
    builder.rebalance()
    builder.get_ring().save(f"{sys.argv[1]}/{kind}.ring.gz")
"""

# A server that ends with the process that started it, however that ended; argv is its script and arguments.
SERVE = """
import ctypes, runpy, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class SwiftServer:
    """A running server, and how to reach it."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which every S3 client finds it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> str:
        """Make an empty bucket, and give its URL."""
        import boto3

        session = boto3.Session(self.access_key, self.secret_key, region_name="us-east-1")
        session.client("s3", endpoint_url=self.endpoint).create_bucket(Bucket=name)
        return f"s3://{name}"


@contextmanager
def swift_server(folder: Path) -> Iterator[SwiftServer]:
    """A server with its data, settings and logs in a folder, until the end of the block.

    Raises:
        RuntimeError: it does not start; the message has the end of the log that tells why.
    """
    folder = folder.resolve()  # Swift changes its working directory
    folder.mkdir(parents=True, exist_ok=True)
    _require_attributes(folder)
    kinds = ("account", "container", "object", "proxy")
    ports = dict(zip(kinds, free_ports(len(kinds)), strict=True))
    _write_settings(folder, ports)
    _build_rings(folder, ports)
    with ExitStack() as stack:
        processes = {kind: stack.enter_context(_process(folder, kind)) for kind in ports}
        deadline = time.monotonic() + START_SECONDS
        for kind, process in processes.items():
            _wait_until_healthy(kind, process, ports[kind], deadline, _log(folder, kind))
        yield SwiftServer(f"http://{HOST}:{ports['proxy']}", ACCESS_KEY, SECRET_KEY)


def _require_attributes(folder: Path) -> None:
    """Swift keeps what it knows of an object in extended attributes, which older kernels lack on tmpfs.

    Its `mem_object` server would do without, but gives every reader of an object one shared file position.
    """
    try:
        os.setxattr(folder, "user.swift", b"")
    except OSError as error:
        raise RuntimeError(f"{folder} has no extended attributes for Swift ({error}): use another folder") from None


def _write_settings(folder: Path, ports: dict[str, int]) -> None:
    (folder / "devices" / "sda1").mkdir(parents=True, exist_ok=True)
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = tests\nswift_hash_path_suffix = tests\n"
        "[storage-policy:0]\nname = default\ndefault = yes\n"
    )
    for kind, port in ports.items():
        (folder / f"{kind}.conf").write_text(_settings(folder, kind, port))


def _settings(folder: Path, kind: str, port: int) -> str:
    """The settings of one server. It does not fork (workers = 0): the process that we start is the one to end."""
    pipeline = PROXY if kind == "proxy" else STORAGE.replace("KIND", kind)
    return f"""[DEFAULT]
bind_ip = {HOST}
bind_port = {port}
workers = 0
user = {pwd.getpwuid(os.getuid()).pw_name}
swift_dir = {folder}
devices = {folder / "devices"}
mount_check = false
disable_fallocate = true
log_level = ERROR

[filter:healthcheck]
use = egg:swift#healthcheck

[pipeline:main]
{pipeline.strip()}
"""


def _build_rings(folder: Path, ports: dict[str, int]) -> None:
    """The rings in one process: nine runs of swift-ring-builder take as long as all the rest."""
    arguments = [str(folder), *(str(ports[kind]) for kind in ("account", "container", "object"))]
    done = subprocess.run([sys.executable, "-c", RINGS, *arguments], capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"Swift's rings cannot be built:\n{done.stderr}")


@contextmanager
def _process(folder: Path, kind: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, ended with the block. A session of its own keeps the terminal's Ctrl-C from it."""
    script = Path(sys.executable).parent / f"swift-{kind}-server"
    with _log(folder, kind).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(script), str(folder / f"{kind}.conf"), "-v"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.log"


def _wait_until_healthy(kind: str, process: subprocess.Popen[bytes], port: int, deadline: float, log: Path) -> None:
    while not _is_healthy(port):
        died = process.poll() is not None
        if died or time.monotonic() > deadline:
            why = f"ended with status {process.returncode}" if died else f"did not answer within {START_SECONDS} s"
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"Swift's {kind} server {why}; the end of its log:\n{tail}")
        time.sleep(0.1)


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/healthcheck")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.swift", description=__doc__)
    parser.add_argument("folder", type=Path, help="for its data, settings and logs")
    folder: Path = parser.parse_args().folder
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with swift_server(folder) as server:
        for name, value in server.environment.items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        while True:
            signal.pause()


def _stop(*_: object) -> None:
    """Leave by way of the context managers; a second signal must not cut their work short."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


if __name__ == "__main__":
    main()
